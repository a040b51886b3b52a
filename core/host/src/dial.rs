//! What the sockets and the TLS of an event loop say when an address cannot be dialed.

use std::io;

use roletalk_engine::hint::DialFault;

/// What a failure of dialing means: of an error of the operating system by its number, else by what
/// OpenSSL and resolvers say, in the words that Node and Python have for it. `code` is the name of the error,
/// `text` its message; either may be empty.
pub fn dial_fault(errno: Option<i32>, code: &str, text: &str) -> Option<DialFault> {
    let said = format!("{code} {text}").to_ascii_lowercase().replace('_', " ");
    // In this order: what says more comes first.
    const SAID: [(&str, DialFault); 28] = [
        ("wrong version number", DialFault::NoTls),
        ("packet length too long", DialFault::NoTls),
        ("record layer failure", DialFault::NoTls),
        ("certificate required", DialFault::ClientCertificate),
        ("alert bad certificate", DialFault::ClientCertificate),
        ("alert unknown ca", DialFault::ClientCertificate),
        ("alert handshake failure", DialFault::ClientCertificate),
        ("has expired", DialFault::Expired),
        ("cert has expired", DialFault::Expired),
        ("not yet valid", DialFault::Expired),
        ("altname", DialFault::WrongName),
        ("hostname mismatch", DialFault::WrongName),
        ("ip address mismatch", DialFault::WrongName),
        ("self signed", DialFault::Untrusted),
        ("self-signed", DialFault::Untrusted),
        ("unable to verify", DialFault::Untrusted),
        ("unable to get", DialFault::Untrusted),
        ("certificate verify failed", DialFault::Untrusted),
        ("enotfound", DialFault::NameUnknown),
        ("eai again", DialFault::NameUnknown),
        ("gaierror", DialFault::NameUnknown),
        // Python, before it asks a resolver; each version ends the sentence in another way.
        ("'idna' codec", DialFault::NameUnknown),
        ("label empty", DialFault::NameUnknown),
        ("label too long", DialFault::NameUnknown),
        ("timed out", DialFault::Silent),
        ("did not answer", DialFault::Silent),
        ("socket hang up", DialFault::HungUp),
        ("parse error", DialFault::NoWebSocket),
    ];
    if let Some((_, fault)) = SAID.iter().find(|(words, _)| said.contains(words)) {
        return Some(*fault);
    }
    if let Some((_, status)) = said.split_once("unexpected server response: ") {
        return status.trim().parse().ok().map(DialFault::Status);
    }
    errno.and_then(|errno| DialFault::of_io(io::Error::from_raw_os_error(errno).kind()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_node_and_python_say() {
        for (errno, code, text, fault) in [
            (Some(111), "ECONNREFUSED", "connect ECONNREFUSED 127.0.0.1:1", DialFault::Refused),
            (None, "ENOTFOUND", "getaddrinfo ENOTFOUND x.invalid", DialFault::NameUnknown),
            (None, "gaierror", "[Errno -2] Name or service not known", DialFault::NameUnknown),
            (
                None,
                "UnicodeError",
                "encoding with 'idna' codec failed (UnicodeError: label empty or too long)",
                DialFault::NameUnknown,
            ),
            (None, "UnicodeError", "label empty or too long", DialFault::NameUnknown),
            (
                None,
                "UnicodeEncodeError",
                "'idna' codec can't encode character '\\x2e' in position 3: label empty",
                DialFault::NameUnknown,
            ),
            (
                None,
                "EPROTO",
                "write EPROTO 80DC:error:0A00010B:SSL routines:ssl3_get_record:wrong version number",
                DialFault::NoTls,
            ),
            (
                Some(1),
                "WRONG_VERSION_NUMBER",
                "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)",
                DialFault::NoTls,
            ),
            (None, "CERT_HAS_EXPIRED", "certificate has expired", DialFault::Expired),
            (
                Some(1),
                "CERTIFICATE_VERIFY_FAILED",
                "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate has expired (_ssl.c:1006)",
                DialFault::Expired,
            ),
            (
                None,
                "ERR_TLS_CERT_ALTNAME_INVALID",
                "Hostname/IP does not match certificate's altnames",
                DialFault::WrongName,
            ),
            (
                Some(1),
                "CERTIFICATE_VERIFY_FAILED",
                "certificate verify failed: Hostname mismatch, certificate is not valid for 'localhost'.",
                DialFault::WrongName,
            ),
            (
                None,
                "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
                "unable to verify the first certificate",
                DialFault::Untrusted,
            ),
            (
                Some(1),
                "CERTIFICATE_VERIFY_FAILED",
                "certificate verify failed: unable to get local issuer certificate",
                DialFault::Untrusted,
            ),
            (None, "ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED", "", DialFault::ClientCertificate),
            (Some(1), "TLSV13_ALERT_CERTIFICATE_REQUIRED", "", DialFault::ClientCertificate),
            (None, "", "Unexpected server response: 403", DialFault::Status(403)),
            (Some(104), "ECONNRESET", "socket hang up", DialFault::HungUp),
        ] {
            assert_eq!(dial_fault(errno, code, text), Some(fault), "{code} {text}");
        }
        assert_eq!(dial_fault(None, "", "Invalid Upgrade header"), None);
    }
}
