//! Routes with what they ask for, read from their handlers' types.

use super::{
    access::{Need, Permit, Reach},
    grant::Grant,
};
use crate::state::AppState;
use axum::{
    Router,
    handler::Handler,
    http::Method,
    routing::{MethodFilter, MethodRouter, on},
};

/// Who a route lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Whoever holds this.
    Granted(Need, Reach),
    /// Everybody, for the reason given.
    Open(&'static str),
}

/// One route.
pub struct Route {
    /// `GET`.
    pub method: Method,
    /// `/api/topics/{name}`.
    pub path: &'static str,
    /// Who it lets in.
    pub access: Access,
    handler: MethodRouter<AppState>,
}

/// Argument lists that begin with `Grant<P>`.
pub trait GrantedBy<P> {}

macro_rules! granted_by {
    ($($name:ident),*) => {
        impl<M, P, $($name),*> GrantedBy<P> for (M, Grant<P>, $($name,)*) {}
    };
}

granted_by!();
granted_by!(A);
granted_by!(A, B);
granted_by!(A, B, C);
granted_by!(A, B, C, D);
granted_by!(A, B, C, D, E);

impl Route {
    /// A route whose handler begins with the grant that it asks for.
    pub fn granted<P, T, H>(method: Method, path: &'static str, handler: H) -> Self
    where
        P: Permit,
        T: GrantedBy<P> + 'static,
        H: Handler<T, AppState>,
    {
        Self::new(method, path, Access::Granted(P::NEED, P::REACH), handler)
    }

    /// A route that lets everybody in, or judges its callers itself.
    pub fn open<T, H>(method: Method, path: &'static str, reason: &'static str, handler: H) -> Self
    where
        T: 'static,
        H: Handler<T, AppState>,
    {
        Self::new(method, path, Access::Open(reason), handler)
    }

    fn new<T, H>(method: Method, path: &'static str, access: Access, handler: H) -> Self
    where
        T: 'static,
        H: Handler<T, AppState>,
    {
        let filter = MethodFilter::try_from(method.clone()).expect("a method that can be routed");
        Self { method, path, access, handler: on(filter, handler) }
    }

    /// A router of `routes`.
    pub fn router(routes: Vec<Self>) -> Router<AppState> {
        routes.into_iter().fold(Router::new(), |router, route| router.route(route.path, route.handler))
    }
}
