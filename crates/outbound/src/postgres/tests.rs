//! A server that answers the request for TLS, and clients that come by way of a tunnel.

use super::*;
use crate::{Policy, Refused};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

/// A CA, and a server's settings with what it signed for `name`.
fn certificates(name: &str) -> (String, Arc<ServerConfig>) {
    let mut ca = CertificateParams::new(Vec::new()).expect("no names");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca_key = KeyPair::generate().expect("a key");
    let ca_pem = ca.self_signed(&ca_key).expect("signed").pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    let certificate = params.signed_by(&key, &issuer).expect("signed").pem();
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("fits");
    (ca_pem, Arc::new(config))
}

/// A server that says back what it hears: over TLS where it has a certificate, else only in the clear.
async fn server(config: Option<Arc<ServerConfig>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let config = config.clone();
            tokio::spawn(async move {
                let mut first = [0; 8];
                stream.read_exact(&mut first).await?;
                let asks = first == [0, 0, 0, 8, 4, 210, 22, 47];
                match config.filter(|_| asks) {
                    Some(config) => {
                        stream.write_all(b"S").await?;
                        let mut spoken = TlsAcceptor::from(config).accept(stream).await?;
                        spoken.read_exact(&mut first).await?;
                        spoken.write_all(&first).await?;
                        spoken.flush().await?;
                    }
                    None => {
                        if asks {
                            stream.write_all(b"N").await?;
                            stream.read_exact(&mut first).await?;
                        }
                        stream.write_all(&first).await?;
                    }
                }
                std::io::Result::Ok(())
            });
        }
    });
    port
}

/// What comes back over a tunnel to `name`, or what is said to keep it away.
async fn spoken(
    port: u16,
    name: &str,
    ssl_mode: SslMode,
    ca: Option<&str>,
) -> Result<[u8; 8], OutboundError> {
    let guard =
        Guard::with_look_up(Policy::Any, |_| Box::pin(async { Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]) }));
    let destination = Destination { host: name.to_owned(), port, ssl_mode, ca: ca.map(str::to_owned) };
    let tunnel = Tunnel::open(guard, destination).await?;
    let mut client = TcpStream::connect(("127.0.0.1", tunnel.port())).await.expect("it listens");
    let mut back = [0; 8];
    let exchange = async {
        client.write_all(b"12345678").await?;
        client.read_exact(&mut back).await
    };
    match exchange.await {
        Ok(_) => Ok(back),
        Err(_) => Err(tunnel.failure().expect("why is said before the client sees the end")),
    }
}

#[tokio::test]
async fn a_server_is_verified_by_its_name_though_its_address_is_connected_to() {
    let (ca, config) = certificates("db.example");
    let (other_ca, _) = certificates("db.example");
    let secure = server(Some(config)).await;
    let plain = server(None).await;
    use SslMode::{Disable, Prefer, Require, VerifyCa, VerifyFull};
    for (port, name, mode, ca, works) in [
        (secure, "db.example", VerifyFull, Some(&ca), true),
        (secure, "other.example", VerifyFull, Some(&ca), false),
        (secure, "db.example", VerifyFull, Some(&other_ca), false),
        (secure, "db.example", VerifyFull, None, false),
        (secure, "other.example", VerifyCa, Some(&ca), true),
        (secure, "other.example", VerifyCa, Some(&other_ca), false),
        (secure, "other.example", Require, None, true),
        (secure, "other.example", Prefer, None, true),
        (plain, "db.example", Prefer, None, true),
        (plain, "db.example", Disable, None, true),
        (plain, "db.example", Require, None, false),
        (plain, "db.example", VerifyFull, Some(&ca), false),
    ] {
        let came = spoken(port, name, mode, ca.map(String::as_str)).await;
        match (works, came) {
            (true, came) => assert_eq!(came.expect("spoken"), *b"12345678", "{name} {mode:?}"),
            (false, came) => assert!(matches!(came, Err(OutboundError::Tls(_))), "{name} {mode:?}: {came:?}"),
        }
    }
}

#[tokio::test]
async fn a_way_inside_is_not_opened() {
    for host in ["localhost", "127.0.0.1", "[::1]"] {
        let destination =
            Destination { host: host.to_owned(), port: 5432, ssl_mode: SslMode::Prefer, ca: None };
        let refused = Tunnel::open(Guard::new(Policy::Public), destination).await.err();
        assert!(matches!(refused, Some(OutboundError::Refused(Refused::Loopback))), "{host}: {refused:?}");
    }
}

#[tokio::test]
async fn a_name_that_leads_inside_later_leads_nowhere() {
    let inside = server(None).await;
    let turn = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let guard = Guard::with_look_up(Policy::Public, move |_| {
        let first = turn.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
        let address = if first { [8, 8, 8, 8] } else { [127, 0, 0, 1] };
        Box::pin(async move { Ok(vec![IpAddr::from(address)]) })
    });
    let destination =
        Destination { host: "db.example".to_owned(), port: inside, ssl_mode: SslMode::Disable, ca: None };
    let tunnel = Tunnel::open(guard, destination).await.expect("public at first");
    let mut client = TcpStream::connect(("127.0.0.1", tunnel.port())).await.expect("it listens");
    let ended = client.read_u8().await;
    assert!(ended.is_err(), "nobody answers");
    let why = tunnel.failure();
    assert!(matches!(why, Some(OutboundError::Refused(Refused::Loopback))), "{why:?}");
}
