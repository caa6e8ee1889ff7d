//! The server's description of itself.

use super::{
    account, api_keys, application_config, applications, backfills, cdc_control, documents, events, health,
    keys, mapping_versions, mappings, outbox, problem::ApiError, route::Route, services, socket,
    subscriptions, tokens, topics,
};
use axum::{Json, http::Method, response::Response};
use utoipa::{
    Modify, OpenApi,
    openapi::{
        ContentBuilder, Object, ObjectBuilder, Ref, RefOr, ResponseBuilder, Schema, ToArray,
        schema::{SchemaType, Type},
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

#[derive(OpenApi)]
#[openapi(
    info(title = "Realtime platform", description = "The REST API. Every failure is an `Error`; every answer carries `X-Request-Id`."),
    modifiers(&Conventions),
    components(schemas(application_config::ConfigPatch)),
    paths(
        health::health, health::ready, health::metrics, health::metrics_documented, openapi_json,
        tokens::issue_token, tokens::verify, tokens::revoke,
        account::setup_status, account::setup, account::login, account::logout, account::me, account::sessions,
        account::end_session,
        applications::list, applications::create, applications::get, applications::update, applications::delete,
        api_keys::list, api_keys::create, api_keys::revoke,
        keys::list, keys::create, keys::rotate, keys::deactivate, keys::delete,
        topics::list, topics::create, topics::get, topics::update, topics::delete, topics::history,
        events::publish,
        documents::list, documents::create, documents::get, documents::replace, documents::merge, documents::mutate,
        documents::delete, documents::revisions, documents::restore,
        services::list, services::create, services::get, services::update, services::delete,
        mappings::list, mappings::create, mappings::get, mappings::update, mappings::delete, mappings::by_topic,
        mappings::preview,
        mapping_versions::status, mapping_versions::list, mapping_versions::create, mapping_versions::promote,
        subscriptions::list, subscriptions::create, subscriptions::logs, subscriptions::activate,
        subscriptions::deactivate,
        backfills::start, backfills::get, backfills::cancel,
        cdc_control::status, cdc_control::events, cdc_control::start, cdc_control::stop, cdc_control::check, outbox::status,
        socket::channels, socket::members,
        socket::connections, socket::connection, socket::traffic,
        socket::broadcast,
        socket::document_presence,
    ),
)]
struct Api;

/// What holds for every route: how to authenticate, and what a failure looks like.
struct Conventions;

impl Modify for Conventions {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let components = api.components.get_or_insert_default();
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("A token, an API key (`rk_…`) or a session (`sess_…`)."))
            .build();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        let session = ApiKey::Header(ApiKeyValue::new("X-Session-Token"));
        components.add_security_scheme("session", SecurityScheme::ApiKey(session));
        components.schemas.insert("Error".to_owned(), RefOr::T(Schema::Object(error_schema())));
        let error = ResponseBuilder::new()
            .description("What went wrong")
            .content(
                "application/json",
                ContentBuilder::new().schema(Some(Ref::from_schema_name("Error"))).build(),
            )
            .build();
        components.responses.insert("Error".to_owned(), RefOr::T(error));
        api.security = Some(vec![
            SecurityRequirement::new("bearer", Vec::<String>::new()),
            SecurityRequirement::new("session", Vec::<String>::new()),
        ]);
        for item in api.paths.paths.values_mut() {
            let operations =
                [&mut item.get, &mut item.post, &mut item.patch, &mut item.delete, &mut item.put];
            for operation in operations.into_iter().flatten() {
                let failure = RefOr::Ref(Ref::from_response_name("Error"));
                operation.responses.responses.insert("default".to_owned(), failure);
            }
        }
    }
}

fn text() -> Object {
    ObjectBuilder::new().schema_type(SchemaType::new(Type::String)).build()
}

fn error_schema() -> Object {
    let detail = ObjectBuilder::new().property("path", text()).property("message", text()).build();
    ObjectBuilder::new()
        .description(Some("A failure; `docs/error-codes.md` lists the codes."))
        .property("error", text())
        .property("message", text())
        .property("code", text())
        .property("details", detail.to_array())
        .property("requestId", text())
        .required("error")
        .required("message")
        .required("code")
        .required("requestId")
        .build()
}

/// The description of all REST routes.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Api::openapi()
}

pub(super) fn routes() -> Vec<Route> {
    vec![Route::open(Method::GET, "/api/openapi.json", "tells nothing of what is stored", openapi_json)]
}

/// This description.
#[utoipa::path(get, path = "/api/openapi.json", tag = "operation", responses((status = 200, body = serde_json::Value)))]
pub(super) async fn openapi_json() -> Result<Response, ApiError> {
    use axum::response::IntoResponse as _;
    Ok(Json(openapi()).into_response())
}
