//! Which documents there are, and what is written to them. Pure: numbers in, requests out.

use crate::link::Endpoint;
use crate::wire::http::json_request;

/// Members that a merge replaces, one at a time.
const FIELDS: u64 = 8;
/// Bytes of each.
const FIELD_BYTES: usize = 96;

/// A number of documents, spread over services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Spread {
    /// Documents in all.
    pub documents: u64,
    /// Services over which they are spread; what belongs to one service is written in order.
    pub services: u64,
}

impl Spread {
    /// The name of a document's service.
    pub fn service(self, document: u64) -> String {
        format!("bench{}", document % self.services.max(1))
    }

    /// The id of a document.
    pub fn id(document: u64) -> String {
        format!("d{document}")
    }

    /// The document that a write of this number goes to, in an order that no cache foresees; the same in
    /// every run.
    pub fn chosen(self, number: u64) -> u64 {
        number.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23) % self.documents.max(1)
    }
}

/// The requests of one server.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Where it is.
    pub endpoint: Endpoint,
    /// The documents.
    pub spread: Spread,
    /// Bytes of a document's data.
    pub bytes: usize,
}

impl Workload {
    /// Creates a document.
    pub fn creation(&self, document: u64) -> Vec<u8> {
        let path = format!("/api/sync/{}/documents", self.spread.service(document));
        let body = format!("{{\"id\":\"{}\",\"data\":{}}}", Spread::id(document), data(self.bytes));
        self.request("POST", &path, &body)
    }

    /// Merges one changed member, and the write's number as `mark`, into the document that is chosen.
    pub fn merge(&self, number: u64) -> Vec<u8> {
        self.merge_into(self.spread.chosen(number), number)
    }

    /// The same into this document.
    pub fn merge_into(&self, document: u64, number: u64) -> Vec<u8> {
        let (service, id) = (self.spread.service(document), Spread::id(document));
        let path = format!("/api/sync/{service}/documents/{id}/merge");
        let body =
            format!("{{\"data\":{{{},\"field{}\":\"{}\"}}}}", mark(number), number % FIELDS, field(number));
        self.request("PATCH", &path, &body)
    }

    fn request(&self, method: &str, path: &str, body: &str) -> Vec<u8> {
        json_request(method, path, &self.endpoint.address, self.endpoint.token.as_deref(), body)
    }
}

/// The member by which a write is recognized in its event.
pub fn mark(number: u64) -> String {
    format!("\"mark\":\"{number:012}\"")
}

fn field(number: u64) -> String {
    format!("{number:012}").repeat(FIELD_BYTES / 12)
}

/// The data of a new document, of so many bytes; merges leave its size as it is.
fn data(bytes: usize) -> String {
    let fields = (0..FIELDS).map(|name| format!(",\"field{name}\":\"{}\"", field(0)));
    let mut text = format!("{{{}{}", mark(0), fields.collect::<String>());
    const AROUND_PAD: usize = ",\"pad\":\"\"}".len();
    let pad = bytes.saturating_sub(text.len() + AROUND_PAD);
    text.push_str(&format!(",\"pad\":\"{}\"}}", "x".repeat(pad)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const SPREAD: Spread = Spread { documents: 1000, services: 16 };

    fn workload() -> Workload {
        let endpoint = Endpoint { address: "127.0.0.1:1".to_owned(), token: None };
        Workload { endpoint, spread: SPREAD, bytes: 1024 }
    }

    fn body(request: Vec<u8>) -> Value {
        let text = String::from_utf8(request).unwrap();
        serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    #[test]
    fn documents_have_the_size_and_keep_it() {
        assert_eq!(data(1024).len(), 1024);
        let mut document = body(workload().creation(7))["data"].clone();
        assert_eq!(document.to_string().len(), 1024);
        let merged = body(workload().merge(123))["data"].clone();
        assert_eq!(merged.as_object().unwrap().len(), 2);
        for (name, value) in merged.as_object().unwrap() {
            assert_ne!(document[name], *value, "{name} changes");
            document[name] = value.clone();
        }
        assert_eq!(document.to_string().len(), 1024);
    }

    #[test]
    fn writes_are_spread_over_all_documents() {
        let mut hits = vec![0_u32; 1000];
        for number in 0..100_000 {
            hits[usize::try_from(SPREAD.chosen(number)).unwrap()] += 1;
        }
        assert!(hits.iter().all(|count| (40..250).contains(count)), "{hits:?}");
    }

    #[test]
    fn a_document_is_always_in_the_same_service() {
        let request = String::from_utf8(workload().merge_into(17, 5)).unwrap();
        assert!(request.starts_with("PATCH /api/sync/bench1/documents/d17/merge "), "{request}");
        assert!(request.contains("\"mark\":\"000000000005\""), "{request}");
        assert!(String::from_utf8(workload().creation(17)).unwrap().contains("/api/sync/bench1/documents "));
    }
}
