//! `/api/socket`: channels and their members, broadcasts, and the connections of all instances.

use super::{
    access::socket as permits,
    body::{Body, Params, Segments},
    grant::Grant,
    page::PageParams,
    problem::ApiError,
    route::Route,
};
use crate::{
    gateway::{SayRequest, carried, channels::Channels, check_event, saying},
    state::AppState,
};
use axum::{
    Json,
    extract::State,
    http::{Method, Uri},
    response::Response,
};
use event_router::{Content, Sender};
use presence::{Member, Place};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use shared_types::{TopicName, rights::Verb};
use utoipa::{IntoParams, ToSchema};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::granted(Method::GET, "/api/socket/channels", channels),
        Route::granted(Method::GET, "/api/socket/channels/{channel}/members", members),
        Route::granted(Method::GET, "/api/socket/connections", connections),
        Route::granted(Method::POST, "/api/socket/broadcast", broadcast),
        Route::granted(Method::GET, "/api/sync/{service}/documents/{document}/presence", document_presence),
    ]
}

/// A channel that has members.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActiveChannel {
    /// Its name.
    name: String,
    /// How many connections have joined it, on all instances.
    member_count: u64,
}

/// Somebody in a channel, or present at a document.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberResource {
    /// The connection.
    socket_id: String,
    /// As whom: the token's subject, or else the socket's id.
    client_id: String,
    /// What it says of itself, where it said that it is present.
    data: Value,
    /// Since when, in Unix milliseconds.
    joined_at: i64,
}

impl From<Member> for MemberResource {
    fn from(member: Member) -> Self {
        Self {
            socket_id: member.socket_id,
            client_id: member.client_id,
            data: member.data,
            joined_at: member.joined_at,
        }
    }
}

/// How much is wanted of the connections.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ConnectionParams {
    /// Whether each connection is described too (default false).
    #[serde(default)]
    detail: bool,
}

/// The connections of the scope, on all instances.
#[derive(Serialize, ToSchema)]
pub struct Connections {
    /// How many there are.
    count: u64,
    /// With `detail`: `{ socketId, clientId, transport, address, channels, subscriptions, connectedAt, uptimeMs }` of
    /// at most 500 an instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    connections: Option<Vec<Value>>,
}

/// Something to say to the members of a channel.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Broadcast {
    /// The channel.
    channel: String,
    /// The message's name, as clients listen for it.
    event: String,
    /// Any JSON value.
    #[schema(value_type = Value)]
    data: Option<Box<RawValue>>,
}

/// What was said.
#[derive(Serialize, ToSchema)]
pub struct Said {
    /// The message's id.
    id: String,
}

/// The channels that have members, by name.
#[utoipa::path(get, path = "/api/socket/channels", tag = "socket", params(PageParams),
    responses((status = 200, body = Vec<ActiveChannel>)))]
pub(super) async fn channels(
    grant: Grant<permits::Read>,
    State(state): State<AppState>,
    Params(params): Params<PageParams>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let page = params.page()?;
    let rows = state.channels.list(grant.scope(), page.after(), page.fetch() as usize).await?;
    let resource = |(name, member_count)| ActiveChannel { name, member_count };
    Ok(page.answer(&uri, rows, |(name, _)| name, resource))
}

/// The members of a channel, by socket.
#[utoipa::path(get, path = "/api/socket/channels/{channel}/members", tag = "socket",
    params(("channel" = String, Path), PageParams), responses((status = 200, body = Vec<MemberResource>)))]
pub(super) async fn members(
    grant: Grant<permits::Read>,
    State(state): State<AppState>,
    Segments(channel): Segments<String>,
    Params(params): Params<PageParams>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let place = Place::channel(&TopicName::parse(&channel)?);
    list(&state, grant.scope(), &place, &params, &uri).await
}

/// Who says that it is present at a document, by socket.
#[utoipa::path(get, path = "/api/sync/{service}/documents/{document}/presence", tag = "sync",
    params(("service" = String, Path), ("document" = String, Path), PageParams),
    responses((status = 200, body = Vec<MemberResource>)))]
pub(super) async fn document_presence(
    grant: Grant<permits::DocumentPresence>,
    State(state): State<AppState>,
    Segments((service, document)): Segments<(String, String)>,
    Params(params): Params<PageParams>,
    uri: Uri,
) -> Result<Response, ApiError> {
    grant.demand(Verb::Presence, &format!("sync.{service}.{document}"))?;
    grant.demand(Verb::DocumentsRead, &format!("sync.{service}.{document}"))?;
    list(&state, grant.scope(), &Place::document(&service, &document), &params, &uri).await
}

async fn list(
    state: &AppState,
    scope: &shared_types::Scope,
    place: &Place,
    params: &PageParams,
    uri: &Uri,
) -> Result<Response, ApiError> {
    let page = params.page()?;
    let rows = state.channels.members(scope, place, page.after(), page.fetch() as usize).await?;
    Ok(page.answer(uri, rows, |member| &member.socket_id, MemberResource::from))
}

/// The connections of the scope, on all instances that answer in time.
#[utoipa::path(get, path = "/api/socket/connections", tag = "socket", params(ConnectionParams),
    responses((status = 200, body = Connections)))]
pub(super) async fn connections(
    grant: Grant<permits::Read>,
    State(state): State<AppState>,
    Params(params): Params<ConnectionParams>,
) -> Result<Json<Connections>, ApiError> {
    let table = state.channels.table(grant.scope(), !params.detail).await?;
    let connections = params.detail.then_some(table.connections);
    Ok(Json(Connections { count: table.count, connections }))
}

/// Says something to the members of a channel, and to those who subscribed to a topic of its name.
#[utoipa::path(post, path = "/api/socket/broadcast", tag = "socket", request_body = Broadcast,
    responses((status = 200, body = Said)))]
pub(super) async fn broadcast(
    grant: Grant<permits::Broadcast>,
    State(state): State<AppState>,
    Body { value: body, .. }: Body<Broadcast>,
) -> Result<Json<Said>, ApiError> {
    let channel = TopicName::parse(&body.channel)?;
    check_event(&body.event)?;
    topic_registry::check_publishable(&channel, "message")?;
    grant.demand(Verb::Broadcast, channel.as_str())?;
    let data = carried(body.data.as_deref().unwrap_or(RawValue::NULL))?;
    let from = Sender { client_id: grant.actor().name().to_owned(), socket_id: None };
    let saying = saying(SayRequest { event: body.event, data, echo: false }, from);
    let id = saying.id.clone();
    let key = Channels::key_of(grant.scope(), &Place::channel(&channel));
    state.channels.announce(key, &Content::Said(saying)).await?;
    Ok(Json(Said { id }))
}
