//! The extractor that is the authorization: only here a [`Grant`] is made.

use super::{
    access::{Need, Permit, Reach},
    credentials::{Caller, caller},
    problem::{ApiError, refused},
};
use crate::state::AppState;
use auth::{Authenticator, Identity, Permissions, Person, Refusal};
use axum::{
    extract::{FromRequestParts, RawPathParams},
    http::{HeaderMap, request::Parts},
};
use event_router::now_ms;
use shared_types::{AppId, Environment, ErrorKind, Problem, Scope, rights::Verb};
use std::{marker::PhantomData, sync::Arc};

/// Proof that the caller may do `P`, and where.
#[derive(Debug)]
pub struct Grant<P> {
    scope: Scope,
    actor: Actor,
    caller: Caller,
    permit: PhantomData<P>,
}

/// Who acts, as records name them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor(String);

impl Actor {
    /// `usr_…`, `key_…` or `client:…`.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// As whom clients hear it: the subject of a token (without one the token's id), `usr_…` or `key_…`.
    pub fn client_id(&self) -> &str {
        self.0.strip_prefix("client:").unwrap_or(&self.0)
    }
}

impl<P: Permit> Grant<P> {
    /// The scope in which it holds.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Who acts.
    pub fn actor(&self) -> &Actor {
        &self.actor
    }

    /// The person, where a person acts.
    pub fn person(&self) -> Option<&Person> {
        match &self.caller {
            Caller::Person(person) => Some(person),
            Caller::Identity(_) => None,
        }
    }

    /// The applications that the caller sees; `None` for all.
    pub fn visible_applications(&self) -> Option<Vec<String>> {
        match &self.caller {
            Caller::Person(person) => person.visible_applications(),
            Caller::Identity(identity) => Some(vec![identity.scope.application().to_string()]),
        }
    }

    /// Whether the token or key still holds, for what goes on after the answer has begun. A session is only looked at
    /// with each request.
    pub fn holding(&self, authenticator: Arc<Authenticator>) -> impl Fn() -> bool + Send + Sync + use<P> {
        let identity = match &self.caller {
            Caller::Identity(identity) => Some(identity.clone()),
            Caller::Person(_) => None,
        };
        move || {
            let holds = |identity: &Identity| {
                identity.expires_at_ms > now_ms() && authenticator.still_holds(identity).is_ok()
            };
            identity.as_deref().is_none_or(holds)
        }
    }

    /// Whether `verb` may be used on `name`, for routes that ask for a verb. A person may on every name.
    ///
    /// # Errors
    /// `FORBIDDEN`.
    pub fn demand(&self, verb: Verb, name: &str) -> Result<(), Problem> {
        match &self.caller {
            Caller::Identity(identity) if !identity.rights.allows(verb, name) => {
                Err(Problem::forbidden(format!("no right to {} {name}", verb.as_str())))
            }
            _ => Ok(()),
        }
    }
}

impl<P: Permit> FromRequestParts<AppState> for Grant<P> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let Some(caller) = caller(parts, state).await? else { return Err(credentials_required().into()) };
        let named = named_application(parts, state).await;
        let scope = match &caller {
            Caller::Identity(identity) => identity_scope::<P>(identity, &parts.headers, named)?,
            Caller::Person(person) => person_scope::<P>(person, &parts.headers, named, state).await?,
        };
        let actor = Actor(match &caller {
            Caller::Identity(identity) => identity.name(),
            Caller::Person(person) => person.user.id.clone(),
        });
        admit(state, &caller, &actor)?;
        authorize::<P>(&caller, &scope)?;
        Ok(Self { scope, actor, caller, permit: PhantomData })
    }
}

/// Counts the request against what one caller may ask in a minute.
fn admit(state: &AppState, caller: &Caller, actor: &Actor) -> Result<(), ApiError> {
    let Some(most) = state.http.requests_per_minute else { return Ok(()) };
    // Subjects of different applications may have one name.
    let key = match caller {
        Caller::Identity(identity) => format!("caller:{}:{}", identity.scope, actor.name()),
        Caller::Person(_) => format!("caller:{}", actor.name()),
    };
    state.rates.admit(&key, most).map_err(|over| {
        let problem = Problem::limit(format!("more than {most} requests in a minute"));
        refused(Refusal { problem, retry_after_seconds: Some(over.retry_after_seconds) })
    })
}

/// What a request without credentials is answered.
pub(super) fn credentials_required() -> Problem {
    let message = "a token, an API key or a session is required";
    Problem::new(ErrorKind::Unauthenticated, "AUTH_REQUIRED", message)
}

/// The application that the path names, for routes that reach for it.
async fn named_application(parts: &mut Parts, state: &AppState) -> Option<AppId> {
    let params = RawPathParams::from_request_parts(parts, state).await.ok()?;
    params.iter().find(|(name, _)| *name == "id").map(|(_, id)| AppId::from_stored(id))
}

/// A token's own application and environment decide; headers may repeat them but not differ.
fn identity_scope<P: Permit>(
    identity: &Identity,
    headers: &HeaderMap,
    named: Option<AppId>,
) -> Result<Scope, Problem> {
    if P::NEED == Need::SignedIn {
        return Err(Problem::forbidden("only for people who are signed in"));
    }
    let own = &identity.scope;
    let application = wanted_application(headers).is_some_and(|id| id != own.application().as_str());
    let environment =
        wanted_environment(headers)?.is_some_and(|environment| environment != own.environment());
    if application || environment {
        let message = "X-Application-Id and X-Environment differ from those of the credentials";
        return Err(Problem::new(ErrorKind::Forbidden, "SCOPE_MISMATCH", message));
    }
    if P::REACH == Reach::Everywhere {
        return Err(Problem::forbidden("only for people with the right in all applications"));
    }
    match named {
        Some(id) if P::REACH == Reach::Path && id != *own.application() => Err(no_application(&id)),
        _ => Ok(own.clone()),
    }
}

/// A person's headers decide, within what they see; another's application looks like none.
async fn person_scope<P: Permit>(
    person: &Person,
    headers: &HeaderMap,
    named: Option<AppId>,
    state: &AppState,
) -> Result<Scope, ApiError> {
    let environment = wanted_environment(headers)?.unwrap_or(Environment::Development);
    let default = || AppId::from_stored("app_default");
    let chosen = wanted_application(headers).map(AppId::from_stored);
    let application = match (P::REACH, named) {
        (Reach::Path, Some(id)) => id,
        (Reach::Somewhere | Reach::Everywhere, _) => return Ok(Scope::new(default(), environment)),
        _ => chosen.unwrap_or_else(default),
    };
    if person.permissions_in(&application).is_empty() || !state.application_exists(&application).await? {
        return Err(no_application(&application).into());
    }
    Ok(Scope::new(application, environment))
}

fn authorize<P: Permit>(caller: &Caller, scope: &Scope) -> Result<(), Problem> {
    let permission = match (P::NEED, caller) {
        (Need::SignedIn, _) => return Ok(()),
        (Need::Verb(verb, _), Caller::Identity(identity)) => {
            let missing = || Problem::forbidden(format!("no right to {}", verb.as_str()));
            return if identity.rights.holds(verb) { Ok(()) } else { Err(missing()) };
        }
        (Need::Permission(permission) | Need::Verb(_, permission), _) => permission,
    };
    let held = match caller {
        Caller::Identity(identity) => Permissions::of_rights(&identity.rights),
        Caller::Person(person) => match P::REACH {
            Reach::Scope | Reach::Path => person.permissions_in(scope.application()),
            Reach::Somewhere => person.permissions_somewhere(),
            Reach::Everywhere => person.permissions_everywhere(),
        },
    };
    if held.hold(permission) {
        return Ok(());
    }
    let mut message = format!("no permission {}", super::security::permission_name(permission));
    // A token's verbs are called much like what people may do, and are something else.
    if matches!(caller, Caller::Identity(_)) && held.is_empty() {
        message.push_str(", which people have, and tokens and API keys of the role admin");
    }
    Err(Problem::forbidden(message))
}

fn no_application(id: &AppId) -> Problem {
    Problem::not_found("application", id.as_str())
}

fn wanted_application(headers: &HeaderMap) -> Option<&str> {
    // One that cannot be read is one that nobody has.
    headers.get("x-application-id").map(|value| value.to_str().unwrap_or_default())
}

/// The environment that the request's header names.
pub(super) fn wanted_environment(headers: &HeaderMap) -> Result<Option<Environment>, Problem> {
    let Some(value) = headers.get("x-environment") else { return Ok(None) };
    let rule = || Problem::field("X-Environment", "must be development, staging or production");
    value.to_str().ok().and_then(|text| text.parse().ok()).map(Some).ok_or_else(rule)
}

#[cfg(test)]
mod tests {
    use super::Actor;

    #[test]
    fn clients_hear_a_token_by_its_subject() {
        for (name, heard) in
            [("client:alice", "alice"), ("client:a:b", "a:b"), ("key_1", "key_1"), ("usr_1", "usr_1")]
        {
            assert_eq!(Actor(name.to_owned()).client_id(), heard);
        }
    }
}
