//! TLS for Postgres, between the relay and the server.
//!
//! The driver could do it by itself, but makes room, and touches it, for whatever length a message says that it has. So
//! the relay has to see the messages as they are.

use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use super::dsn::{Tls, TlsMode};
use super::relay::Stream;

/// A file with certificates is no longer than this.
const PEM_BYTES_MAX: u64 = 1 << 20;
/// Asks a Postgres server whether it speaks TLS: the length of the message and its code.
const REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// The files that a DSN names, read.
#[derive(Default)]
pub(super) struct Files {
    pub(super) authorities: Option<Vec<u8>>,
    pub(super) identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Files {
    pub(super) async fn read(tls: &Tls) -> Result<Self, String> {
        if tls.mode == TlsMode::Disabled {
            return Ok(Self::default());
        }
        let authorities = match &tls.authorities {
            Some(path) => Some(pem(path).await?),
            None => None,
        };
        let identity = match (&tls.certificate, &tls.key) {
            (Some(certificate), Some(key)) => Some((pem(certificate).await?, pem(key).await?)),
            _ => None,
        };
        Ok(Self { authorities, identity })
    }
}

/// Reads a file. A script chooses it: so the error says the same whatever is there that is not meant for it.
async fn pem(path: &Path) -> Result<Vec<u8>, String> {
    let refuse = || format!("{} is no readable PEM file of at most 1 MiB", path.display());
    let path_owned = path.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        use std::io::Read;
        // The kind is known before it is opened: to open a pipe is to wait for its other end.
        if !std::fs::metadata(&path_owned)?.is_file() {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        let mut content = Vec::new();
        std::fs::File::open(&path_owned)?.take(PEM_BYTES_MAX + 1).read_to_end(&mut content)?;
        Ok::<_, std::io::Error>(content)
    });
    let content = read.await.map_err(|_| refuse())?.map_err(|_| refuse())?;
    let is_pem = content.windows(11).any(|window| window == b"-----BEGIN ");
    if content.len() as u64 > PEM_BYTES_MAX || !is_pem { Err(refuse()) } else { Ok(content) }
}

/// Asks the server for TLS, as far as the DSN wants it, and returns the connection with or without.
pub(super) async fn upgrade(
    mut server: Box<dyn Stream>,
    tls: &Tls,
    host: &str,
) -> Result<Box<dyn Stream>, String> {
    if tls.mode == TlsMode::Disabled {
        return Ok(server);
    }
    server.write_all(&REQUEST).await.map_err(|error| format!("the server does not answer: {error}"))?;
    // One byte and not one more: what comes behind it is already encrypted, or somebody has put it there.
    let mut answer = [0];
    server.read_exact(&mut answer).await.map_err(|error| format!("the server does not answer: {error}"))?;
    match answer[0] {
        b'S' => {}
        b'N' if tls.mode == TlsMode::Preferred => return Ok(server),
        b'N' => return Err("the server does not speak TLS, which sslmode asks for".to_owned()),
        _ => return Err("the server is no PostgreSQL server".to_owned()),
    }
    let config = config(tls, &Files::read(tls).await?)?;
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| "the name of the host cannot be that of a certificate".to_owned())?;
    match TlsConnector::from(Arc::new(config)).connect(name, server).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(format!("no TLS with the server: {error}")),
    }
}

fn config(tls: &Tls, files: &Files) -> Result<ClientConfig, String> {
    let refuse = |what: &'static str| move |error: rustls::Error| format!("{what}: {error}");
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(refuse("no TLS"))?;
    let builder = if matches!(tls.mode, TlsMode::VerifyAuthority | TlsMode::VerifyName) {
        let mut roots = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        for authority in files.authorities.iter().flat_map(|pem| CertificateDer::pem_slice_iter(pem)) {
            let authority = authority.map_err(|_| "sslrootcert has no certificates in it".to_owned())?;
            roots.add(authority).map_err(refuse("sslrootcert"))?;
        }
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .map_err(|error| format!("no TLS: {error}"))?;
        if tls.mode == TlsMode::VerifyName {
            builder.with_webpki_verifier(inner)
        } else {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyName { inner }))
        }
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody { provider }))
    };
    let Some((certificate, key)) = &files.identity else { return Ok(builder.with_no_client_auth()) };
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|_| "sslcert has no certificates in it".to_owned())?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "sslkey has no key in it".to_owned())?;
    builder.with_client_auth_cert(chain, key).map_err(refuse("sslcert and sslkey"))
}

/// Encryption without knowing with whom: what `prefer` and `require` ask for.
#[derive(Debug)]
struct Anybody {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A certificate by somebody known, whatever name is in it: what `verify-ca` asks for.
#[derive(Debug)]
struct AnyName {
    inner: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.inner.verify_server_cert(certificate, chain, name, ocsp, now) {
            // The name is looked at last.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
