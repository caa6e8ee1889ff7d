//! `/api/socket`: channels and their members, broadcasts, and the connections of all instances with what happens on
//! them.

use super::{
    access::socket as permits,
    body::{Body as JsonBody, Params, Segments},
    grant::Grant,
    page::PageParams,
    problem::ApiError,
    route::Route,
};
use crate::{
    gateway::{
        SayRequest, carried, channel_name, channels::Channels, check_event, check_speakable, event_stream,
        saying,
    },
    state::AppState,
};
use axum::{
    Json,
    body::Body,
    extract::State,
    http::{Method, Uri},
    response::{IntoResponse as _, Response},
};
use document_store::{DocumentId, ServiceName};
use event_router::{Content, Sender, Wanted};
use presence::{Member, Place};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use shared_types::{Problem, TopicName, rights::Verb};
use std::{convert::Infallible, net::IpAddr};
use utoipa::{IntoParams, ToSchema};

/// What connections are made over.
const TRANSPORTS: [&str; 3] = ["socketio", "websocket", "sse"];

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::granted(Method::GET, "/api/socket/channels", channels),
        Route::granted(Method::GET, "/api/socket/channels/{channel}/members", members),
        Route::granted(Method::GET, "/api/socket/connections", connections),
        Route::granted(Method::GET, "/api/socket/connections/{socket}", connection),
        Route::granted(Method::GET, "/api/socket/traffic", traffic),
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

/// Which connections are wanted, and how much of them.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ConnectionParams {
    /// Whether each connection is described too (default false).
    #[serde(default)]
    detail: bool,
    /// With `detail`: how many, 1 to 500 (default 50).
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// With `detail`: where to go on: `X-Next-Cursor` of the page before.
    cursor: Option<String>,
    /// Only those of this transport: `socketio`, `websocket` or `sse`.
    transport: Option<String>,
    /// Only those of this client.
    client_id: Option<String>,
    /// Only those from this address.
    address: Option<String>,
    /// Only those that joined this channel.
    channel: Option<String>,
    /// Only those that subscribe to this topic.
    topic: Option<String>,
}

impl ConnectionParams {
    /// What is wanted behind `after`, at most `limit`.
    ///
    /// # Errors
    /// `VALIDATION_FAILED`, `INVALID_TOPIC`: what no connection can have is a mistake, not an empty list.
    fn wanted(&self, after: Option<&str>, limit: usize) -> Result<Wanted, Problem> {
        if self.transport.as_deref().is_some_and(|given| !TRANSPORTS.contains(&given)) {
            return Err(Problem::field("transport", format!("must be one of {}", TRANSPORTS.join(", "))));
        }
        let address = self.address.as_deref().map(str::parse::<IpAddr>).transpose();
        let address = address.map_err(|_| Problem::field("address", "must be an IP address"))?;
        self.channel.as_deref().map(channel_name).transpose()?;
        self.topic.as_deref().map(TopicName::parse).transpose()?;
        Ok(Wanted {
            after: after.map(str::to_owned),
            limit,
            transport: self.transport.clone(),
            client_id: self.client_id.clone(),
            address: address.map(|address| address.to_string()),
            channel: self.channel.clone(),
            topic: self.topic.clone(),
        })
    }

    /// The filters as they are asked for again with the next page.
    fn again(&self) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::from("&detail=true"));
        let filters = [
            ("transport", &self.transport),
            ("clientId", &self.client_id),
            ("address", &self.address),
            ("channel", &self.channel),
            ("topic", &self.topic),
        ];
        for (name, value) in filters {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        query.finish()
    }
}

/// The connections of the scope, on all instances.
#[derive(Serialize, ToSchema)]
pub struct Connections {
    /// How many there are that are wanted.
    count: u64,
    /// With `detail`: a page of them, by socket: `{ socketId, clientId, transport, address, userAgent, channels,
    /// subscriptions, connectedAt, uptimeMs }`.
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
    let place = Place::channel(&channel_name(&channel)?);
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
    let (service, document) = (ServiceName::parse("service", &service)?, DocumentId::parse(&document)?);
    grant.demand(Verb::Presence, &format!("sync.{service}.{document}"))?;
    grant.demand(Verb::DocumentsRead, &format!("sync.{service}.{document}"))?;
    let place = Place::document(service.as_str(), document.as_str());
    list(&state, grant.scope(), &place, &params, &uri).await
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
    uri: Uri,
) -> Result<Response, ApiError> {
    let page = PageParams::new(params.limit, params.cursor.clone()).page()?;
    let limit = if params.detail { page.fetch() as usize } else { 0 };
    let table = state.channels.table(grant.scope(), &params.wanted(page.after(), limit)?).await?;
    let (rows, next) = page.cut(table.connections, |row| row["socketId"].as_str().unwrap_or_default());
    let connections = params.detail.then_some(rows);
    let body = Json(Connections { count: table.count, connections }).into_response();
    Ok(page.with_next(&uri, &params.again(), next, body))
}

/// One connection with each of its subscriptions, wherever it is: as in the table, and
/// `subscriptionList: [{ subscriptionId, topic, filter, returnMode }]`.
#[utoipa::path(get, path = "/api/socket/connections/{socket}", tag = "socket", params(("socket" = String, Path)),
    responses((status = 200, body = Value), (status = 404, description = "NOT_FOUND")))]
pub(super) async fn connection(
    grant: Grant<permits::Read>,
    State(state): State<AppState>,
    Segments(socket): Segments<String>,
) -> Result<Json<Value>, ApiError> {
    let found = state.channels.describe(grant.scope(), &socket).await?;
    Ok(Json(found.ok_or_else(|| Problem::not_found("connection", &socket))?))
}

/// What happens on the connections of the scope, on all instances, as server-sent events: `watching` once, then
/// `traffic` with `{ type, timestamp, socketId?, clientId?, … }` each, and `omitted` with `{ count }` where more happens
/// than is told. Ends after five minutes; its client comes again.
#[utoipa::path(get, path = "/api/socket/traffic", tag = "socket",
    responses((status = 200, content_type = "text/event-stream", body = String)))]
pub(super) async fn traffic(
    grant: Grant<permits::Read>,
    State(state): State<AppState>,
) -> Result<Response, ApiError> {
    let holding = grant.holding(state.authenticator.clone());
    let watching = state.channels.view(grant.scope(), holding).await?;
    let pieces = futures::stream::unfold(watching, |mut watching| async move {
        watching.next().await.map(|piece| (Ok::<_, Infallible>(piece), watching))
    });
    Ok(event_stream(Body::from_stream(pieces)))
}

/// Says something to the members of a channel, and to those who subscribed to a topic of its name.
#[utoipa::path(post, path = "/api/socket/broadcast", tag = "socket", request_body = Broadcast,
    responses((status = 200, body = Said)))]
pub(super) async fn broadcast(
    grant: Grant<permits::Broadcast>,
    State(state): State<AppState>,
    JsonBody { value: body, .. }: JsonBody<Broadcast>,
) -> Result<Json<Said>, ApiError> {
    let channel = channel_name(&body.channel)?;
    check_event(&body.event)?;
    check_speakable(&channel)?;
    grant.demand(Verb::Broadcast, channel.as_str())?;
    let data = carried(body.data.as_deref().unwrap_or(RawValue::NULL))?;
    let from = Sender { client_id: grant.actor().client_id().to_owned(), socket_id: None };
    let saying = saying(SayRequest { event: body.event, data, echo: false }, from);
    let id = saying.id.clone();
    state.channels.note_broadcast(grant.scope(), &channel, &saying);
    let key = Channels::key_of(grant.scope(), &Place::channel(&channel));
    state.channels.announce(key, &Content::Said(saying)).await?;
    Ok(Json(Said { id }))
}
