//! Payloads as the runner writes them: `{"type": …, "value": …}`, binary in hexadecimal, numbers as
//! text.

use roletalk::{Data, DataType};
use serde_json::{Value, json};

use crate::Failure;

pub(crate) fn to_wire(data: &Data) -> Result<Value, Failure> {
    Ok(match data.kind() {
        DataType::Binary => {
            json!({ "type": "binary", "value": to_hex(data.as_binary().unwrap_or(&Default::default())) })
        }
        DataType::Null => json!({ "type": "null", "value": null }),
        DataType::Boolean => json!({ "type": "boolean", "value": data.as_bool() }),
        DataType::String => json!({ "type": "string", "value": data.as_str() }),
        DataType::Number => json!({ "type": "number", "value": data.number_text() }),
        DataType::Object => {
            json!({ "type": "object", "value": data.to_json().map_err(roletalk::Error::from)? })
        }
        _ => return Err("a type of data that the runner does not know".into()),
    })
}

pub(crate) fn from_wire(wire: &Value) -> Result<Data, Failure> {
    let value = &wire["value"];
    let text = || value.as_str().ok_or("value is not a text");
    Ok(match wire["type"].as_str().ok_or("no type")? {
        "binary" => Data::binary(from_hex(text()?)?),
        "null" => Data::from(()),
        "boolean" => Data::from(value.as_bool().ok_or("value is not a boolean")?),
        "string" => Data::from(text()?),
        "number" => Data::number(text()?.parse()?),
        "object" => Data::json(value)?,
        other => return Err(format!("unknown type {other}").into()),
    })
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Result<Vec<u8>, Failure> {
    (0..text.len() / 2)
        .map(|i| Ok(u8::from_str_radix(text.get(2 * i..2 * i + 2).ok_or("not hexadecimal")?, 16)?))
        .collect()
}
