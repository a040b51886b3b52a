//! What a unit says of itself, for hosts in other languages.

use crate::UnitInfo;

impl UnitInfo {
    /// What users of other languages see of it, and the unit's roles: a JSON object with the members
    /// `id`, `name`, `friendly`, `meta` (`os`, `runtime`, `time`, `uptime`, `protocol`), `tags` and
    /// `roles`.
    pub fn describe(&self, roles: &[String]) -> String {
        let description = serde_json::json!({
            "id": &*self.id,
            "name": self.name,
            "friendly": self.friendly,
            "meta": self.meta,
            "tags": self.tags,
            "roles": roles,
        });
        description.to_string()
    }
}

#[cfg(test)]
mod tests {
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
        };
        assert_eq!(
            info.describe(&["one".into(), "two".into()]),
            concat!(
                r#"{"friendly":true,"id":"1","#,
                r#""meta":{"os":"linux","protocol":"","runtime":"","time":5,"uptime":0},"#,
                r#""name":"a \"name\"","roles":["one","two"],"tags":{"key":"value"}}"#,
            )
        );
    }
}
