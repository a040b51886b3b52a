//! What went wrong with TLS, and what to do about it.

use std::{fmt, io};

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

/// Which side this one is.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Side {
    Dialer,
    Listener,
}

/// The failure of TLS that an error is, if it is one.
pub(super) fn of(error: &io::Error) -> Option<&Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

/// Why TLS failed, with a remedy where there is one to tell.
pub(super) struct Reason<'a> {
    pub(super) error: &'a io::Error,
    pub(super) side: Side,
}

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.error.kind() {
            io::ErrorKind::UnexpectedEof => f.write_str("the other side has hung up"),
            _ => write!(f, "{}", self.error),
        }?;
        match of(self.error).and_then(|error| remedy(error, self.side)) {
            Some(remedy) => write!(f, ". {remedy}"),
            None => Ok(()),
        }
    }
}

fn remedy(error: &Error, side: Side) -> Option<&'static str> {
    use AlertDescription as Alert;
    let remedy = match (error, side) {
        (Error::InvalidCertificate(error), side) => return certificate(error, side),
        (Error::NoCertificatesPresented, _) => {
            "The dialer has shown no certificate: it needs one, with its key, that an authority of the \
             listener's `client_ca` has issued"
        }
        (Error::InvalidMessage(InvalidMessage::InvalidContentType), Side::Dialer) => {
            "The listener does not speak TLS there: dial it with ws:// instead of wss://, or give it a \
             certificate and a key"
        }
        (Error::InvalidMessage(InvalidMessage::InvalidContentType), Side::Listener) => {
            "The dialer does not speak TLS: it is to dial wss:// instead of ws://"
        }
        (Error::AlertReceived(Alert::CertificateRequired), _) => {
            "The listener wants a certificate of the dialer's: give one, with its key, that an authority \
             of its `client_ca` has issued"
        }
        (Error::AlertReceived(Alert::UnknownCA), Side::Dialer) => {
            "The listener does not trust the authority that has issued the dialer's certificate: it is \
             to be among its `client_ca`"
        }
        (Error::AlertReceived(Alert::UnknownCA), Side::Listener) => {
            "The dialer does not trust the authority that has issued the listener's certificate: it is \
             to be given that as `ca`"
        }
        (
            Error::AlertReceived(
                Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::DecryptError,
            ),
            _,
        ) => "The other side does not accept this side's certificate: its own error says why",
        (Error::AlertReceived(Alert::HandshakeFailure), Side::Dialer) => {
            "The listener may want a certificate of the dialer's, or have no version of TLS or no \
             algorithm in common with it"
        }
        _ => return None,
    };
    Some(remedy)
}

fn certificate(error: &CertificateError, side: Side) -> Option<&'static str> {
    use CertificateError as E;
    let dialer = side == Side::Dialer;
    let remedy = match error {
        // The latter when another one of the same name is.
        E::UnknownIssuer | E::BadSignature if dialer => {
            "The listener's certificate comes from no authority that is trusted here: give the one that \
             has issued it as `ca`"
        }
        E::UnknownIssuer | E::BadSignature => {
            "The dialer's certificate comes from no authority of `client_ca`"
        }
        E::Expired | E::ExpiredContext { .. } if dialer => {
            "The listener's certificate has expired: renew it"
        }
        E::Expired | E::ExpiredContext { .. } => "The dialer's certificate has expired: renew it",
        E::NotValidYet | E::NotValidYetContext { .. } => {
            "The certificate begins in the future: look at the clocks of both sides"
        }
        E::NotValidForName | E::NotValidForNameContext { .. } => {
            "The listener's certificate is for another name: dial one of its subjectAltName, or say which \
             one to expect (`server_name`)"
        }
        E::InvalidPurpose | E::InvalidPurposeContext { .. } if dialer => {
            "The listener's certificate is not for servers: its extendedKeyUsage needs serverAuth"
        }
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => {
            "The dialer's certificate is not for clients: its extendedKeyUsage needs clientAuth"
        }
        E::Other(error) if format!("{error:?}").contains("CaUsedAsEndEntity") => {
            "An authority's own certificate is not to be shown: let it issue one (docs/TLS.md)"
        }
        _ => return None,
    };
    Some(remedy)
}
