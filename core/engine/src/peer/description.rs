//! What a unit says and shows of itself, for hosts in other languages.

use crate::UnitInfo;

impl UnitInfo {
    /// What users of other languages see of it, and the unit's roles: a JSON object with the members
    /// `id`, `name`, `friendly`, `meta` (`os`, `runtime`, `time`, `uptime`, `protocol`), `tags`,
    /// `roles` and `identity`, as [`Identity::to_json`](crate::Identity::to_json) has it.
    pub fn describe(&self, roles: &[String]) -> String {
        let description = serde_json::json!({
            "id": &*self.id,
            "name": self.name,
            "friendly": self.friendly,
            "meta": self.meta,
            "tags": self.tags,
            "roles": roles,
            "identity": self.identity.to_json(),
        });
        description.to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::{Dialect, UnitInfo, wire::Meta};

    #[test]
    fn a_unit_is_described_in_json() {
        let info = UnitInfo {
            id: "1".into(),
            name: "a \"name\"".into(),
            friendly: true,
            meta: Meta { os: "linux".into(), time: 5, ..Meta::default() },
            tags: [("key".to_owned(), "value".to_owned())].into(),
            dialect: Dialect::Go,
            identity: Arc::default(),
        };
        assert_eq!(
            info.describe(&["one".into(), "two".into()]),
            concat!(
                r#"{"friendly":true,"id":"1","identity":{"address":null,"certificate":null,"claims":{},"#,
                r#""dialed":false,"headers":[],"key":null,"peer":null},"#,
                r#""meta":{"os":"linux","protocol":"","runtime":"","time":5,"uptime":0},"#,
                r#""name":"a \"name\"","roles":["one","two"],"tags":{"key":"value"}}"#,
            )
        );
    }
}
