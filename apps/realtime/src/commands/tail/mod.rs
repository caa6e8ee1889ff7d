//! `realtime tail`: follows a topic over a plain WebSocket, and over lost connections by position.

mod follower;
mod frame;

use crate::api::refused;
use crate::cli::{ServerArgs, TailArgs};
use crate::exit::{Code, Failure, Outcome};
use crate::place::Server;
use crate::terminal;
use follower::{Follower, Next};
use futures::{SinkExt, StreamExt};
use std::future::Future;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message, protocol::CloseFrame};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// The server pings every 25 s: after this long in silence it is gone.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// How a connection ended.
enum End {
    /// As many events as were wanted have been printed.
    Done,
    /// It is worth connecting again.
    Lost(String),
}

/// Follows the topic until Ctrl-C, `--count` or `--timeout`.
pub async fn run(args: TailArgs, server_args: &ServerArgs) -> Outcome {
    let limit = args.timeout.map(time_limit).transpose()?;
    let server = Server::find(server_args)?;
    let mut follower = Follower::new(&args, server_args.json)?;
    let ended = tokio::select! {
        outcome = follow(&server, &mut follower) => return outcome,
        stopped = tokio::signal::ctrl_c() => stopped.map(|()| false),
        () = pass(limit) => Ok(true),
    };
    let timed_out = ended.map_err(|error| Failure::from(anyhow::Error::new(error)))?;
    match args.count {
        Some(wanted) if timed_out => {
            let message = format!("{} of {wanted} events came in time", follower.printed());
            Err(Failure::new(Code::Failure, message))
        }
        _ => Ok(()),
    }
}

fn time_limit(seconds: f64) -> Outcome<Duration> {
    let limit = Duration::try_from_secs_f64(seconds);
    limit.map_err(|_| Failure::new(Code::Usage, "--timeout must be a positive number of seconds"))
}

async fn pass(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// Connects again and again; only the first time it must work at once.
async fn follow(server: &Server, follower: &mut Follower) -> Outcome {
    let mut wait = FIRST_WAIT;
    loop {
        let lost = match connect(server).await {
            Ok(mut socket) => {
                let ended = converse(server, follower, &mut socket).await;
                let _ = timeout(Duration::from_secs(1), socket.close(None)).await;
                match ended {
                    Ok(End::Done) => return Ok(()),
                    Ok(End::Lost(why)) => why,
                    // A server that has just come back may not have its database yet.
                    Err(Failure::Said(Code::Unavailable, why)) if follower.has_subscribed() => why,
                    Err(failure) => return Err(failure),
                }
            }
            Err(Failure::Said(Code::Unavailable, why)) if follower.has_subscribed() => why,
            Err(failure) => return Err(failure),
        };
        if follower.take_was_live() {
            wait = FIRST_WAIT;
            terminal::note(&format!("connection lost ({lost}); trying again"));
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

async fn connect(server: &Server) -> Outcome<Socket> {
    let mut url = server.address("/ws");
    let scheme = if url.scheme() == "https" { "wss" } else { "ws" };
    let unusable = || Failure::new(Code::Usage, format!("{} cannot be used for a WebSocket", server.url));
    url.set_scheme(scheme).map_err(|()| unusable())?;
    let mut request = url.as_str().into_client_request().map_err(|_| unusable())?;
    let token = server.fresh_token();
    if let Some(token) = &token {
        let header = format!("Bearer {token}").parse();
        let bad = |_| Failure::new(Code::Usage, "the token holds characters that no token has");
        request.headers_mut().insert("authorization", header.map_err(bad)?);
    }
    match timeout(CONNECT_LIMIT, connect_async(request)).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(Error::Http(response))) => {
            let body = response.body().as_deref().unwrap_or_default();
            let status = response.status();
            let said = frame::refusal(body).unwrap_or_else(|| format!("the server answered {status}"));
            Err(refused(status.as_u16(), &said, token.is_some()))
        }
        Ok(Err(error)) => Err(Failure::unreachable(&server.url, error)),
        Err(_) => Err(Failure::unreachable(&server.url, "no answer in time")),
    }
}

/// Subscribes and prints until the connection ends.
async fn converse(server: &Server, follower: &mut Follower, socket: &mut Socket) -> Outcome<End> {
    if let Err(lost) = send(socket, follower.subscribe()).await {
        return Ok(lost);
    }
    let token = server.fresh_token();
    loop {
        let message = match timeout(SILENCE_LIMIT, socket.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(error))) => return Ok(End::Lost(error.to_string())),
            Ok(None) => return Ok(End::Lost("closed".to_owned())),
            Err(_) => return Ok(End::Lost("silence".to_owned())),
        };
        let next = match message {
            Message::Text(text) => follower.frame(&text)?,
            Message::Close(close) => {
                let has_newer_token = server.fresh_token() != token;
                return closed(close, has_newer_token);
            }
            _ => Next::Wait,
        };
        let sent = match next {
            Next::Wait => continue,
            Next::Done => return Ok(End::Done),
            Next::Send(text) => send(socket, text).await,
            Next::Refresh => match server.fresh_token().filter(|_| server.is_own_dev) {
                Some(token) => send(socket, follower.refresh(&token)).await,
                None => return Err(Failure::new(Code::NoPermission, "the token has expired")),
            },
        };
        if let Err(lost) = sent {
            return Ok(lost);
        }
    }
}

/// Sends a frame; a connection that does not take it is lost.
async fn send(socket: &mut Socket, text: String) -> Result<(), End> {
    match within(socket.send(Message::text(text))).await {
        Ok(()) => Ok(()),
        Err(why) => Err(End::Lost(why)),
    }
}

async fn within(work: impl Future<Output = Result<(), Error>>) -> Result<(), String> {
    match timeout(CONNECT_LIMIT, work).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err("the server does not read".to_owned()),
    }
}

/// What a close code means: see the protocol's list. With a newer token, as after a laptop's sleep, being sent away is
/// not the end.
fn closed(close: Option<CloseFrame>, has_newer_token: bool) -> Outcome<End> {
    let (code, reason) = close
        .map_or((1006, String::new()), |close| (u16::from(close.code), close.reason.as_str().to_owned()));
    let said = if reason.is_empty() { format!("close code {code}") } else { reason };
    match code {
        1008 | 4001 if !has_newer_token => {
            Err(Failure::new(Code::NoPermission, format!("the server ended it: {said}")))
        }
        _ => Ok(End::Lost(said)),
    }
}
