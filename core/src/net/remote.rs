//! What a TLS connection shows of its other end.

use std::net::SocketAddr;

use rustls::{ClientConnection, CommonState, ServerConnection};
use rustls_pki_types::CertificateDer;

use crate::engine::{Binding, Remote, end_point};

/// The end that was accepted. `own` is the hash of the certificate that this side has shown.
pub(super) fn of_server(
    tls: &ServerConnection,
    address: SocketAddr,
    own: Option<[u8; 32]>,
) -> Remote {
    let exporter = tls.export_keying_material([0; 32], Binding::LABEL.as_bytes(), Some(&[]));
    let binding = Binding { tls: true, exporter: exporter.ok(), end_point: own };
    Remote { binding, ..shown(tls, Some(address)) }
}

/// The end that was dialed.
pub(super) fn of_client(tls: &ClientConnection, address: Option<SocketAddr>) -> Remote {
    let exporter = tls.export_keying_material([0; 32], Binding::LABEL.as_bytes(), Some(&[]));
    let end_point = leaf(tls).map(|leaf| end_point(leaf));
    Remote {
        binding: Binding { tls: true, exporter: exporter.ok(), end_point },
        ..shown(tls, address)
    }
}

fn shown(tls: &CommonState, address: Option<SocketAddr>) -> Remote {
    let remote = Remote::at(address);
    match leaf(tls) {
        Some(leaf) => remote.with_certificate(leaf),
        None => remote,
    }
}

fn leaf(tls: &CommonState) -> Option<&CertificateDer<'static>> {
    tls.peer_certificates().and_then(<[_]>::first)
}
