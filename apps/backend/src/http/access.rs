//! What each route asks of its caller, stated as types.
//!
//! A handler says what it asks for by the `Grant<…>` in its arguments; [`super::route::Route`] reads it from there,
//! so that the table of permissions cannot differ from what is enforced.

use shared_types::rights::{Action, Permission, Resource, Verb};

/// What is asked of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A permission of their role.
    Permission(Permission),
    /// A verb of a token or an API key, on the name concerned; of a person the permission.
    Verb(Verb, Permission),
    /// Being signed in as a person.
    SignedIn,
}

/// For which application it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// That of the request's scope.
    Scope,
    /// The one named in the path.
    Path,
    /// Any: the handler shows only what the caller may see.
    Somewhere,
    /// All.
    Everywhere,
}

/// What a route asks for.
pub trait Permit: Send + Sync + 'static {
    /// What is asked of the caller.
    const NEED: Need;
    /// For which application.
    const REACH: Reach;
}

const fn permission(resource: Resource, action: Action) -> Permission {
    Permission { resource, action }
}

macro_rules! permits {
    ($($module:ident { $($name:ident = $need:expr, $reach:ident;)+ })+) => {
        $(
            #[doc = concat!("What the routes of ", stringify!($module), " ask for.")]
            pub mod $module {
                use super::*;
                $(
                    #[doc = concat!("`", stringify!($name), "`.")]
                    #[derive(Debug)]
                    pub struct $name;
                    impl Permit for $name {
                        const NEED: Need = $need;
                        const REACH: Reach = Reach::$reach;
                    }
                )+
            }
        )+
    };
}

const fn needs(resource: Resource, action: Action) -> Need {
    Need::Permission(permission(resource, action))
}

permits! {
    topics {
        Read = needs(Resource::Topics, Action::Read), Scope;
        Create = needs(Resource::Topics, Action::Create), Scope;
        Update = needs(Resource::Topics, Action::Update), Scope;
        Delete = needs(Resource::Topics, Action::Delete), Scope;
        History = Need::Verb(Verb::History, permission(Resource::Documents, Action::Read)), Scope;
    }
    events {
        Publish = Need::Verb(Verb::Publish, permission(Resource::Socket, Action::Create)), Scope;
    }
    documents {
        Read = Need::Verb(Verb::DocumentsRead, permission(Resource::Documents, Action::Read)), Scope;
        Create = Need::Verb(Verb::DocumentsWrite, permission(Resource::Documents, Action::Create)), Scope;
        Update = Need::Verb(Verb::DocumentsWrite, permission(Resource::Documents, Action::Update)), Scope;
        Delete = Need::Verb(Verb::DocumentsWrite, permission(Resource::Documents, Action::Delete)), Scope;
    }
    services {
        Read = needs(Resource::Documents, Action::Read), Scope;
        Create = needs(Resource::Documents, Action::Create), Scope;
        Update = needs(Resource::Documents, Action::Update), Scope;
        Delete = needs(Resource::Documents, Action::Delete), Scope;
    }
    socket {
        Read = needs(Resource::Socket, Action::Read), Scope;
        Broadcast = Need::Verb(Verb::Broadcast, permission(Resource::Socket, Action::Create)), Scope;
        DocumentPresence = Need::Verb(Verb::Presence, permission(Resource::Documents, Action::Read)), Scope;
    }
    mappings {
        Read = needs(Resource::Mappings, Action::Read), Scope;
        Create = needs(Resource::Mappings, Action::Create), Scope;
        Update = needs(Resource::Mappings, Action::Update), Scope;
        Delete = needs(Resource::Mappings, Action::Delete), Scope;
    }
    keys {
        Read = needs(Resource::Keys, Action::Read), Scope;
        Create = needs(Resource::Keys, Action::Create), Scope;
        Update = needs(Resource::Keys, Action::Update), Scope;
        Delete = needs(Resource::Keys, Action::Delete), Scope;
    }
    applications {
        List = needs(Resource::Keys, Action::Read), Somewhere;
        Create = needs(Resource::Keys, Action::Create), Everywhere;
        Read = needs(Resource::Keys, Action::Read), Path;
        Update = needs(Resource::Keys, Action::Update), Path;
        Delete = needs(Resource::Keys, Action::Delete), Path;
        CreateKey = needs(Resource::Keys, Action::Create), Path;
    }
    account {
        SignedIn = Need::SignedIn, Somewhere;
    }
}
