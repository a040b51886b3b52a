include!(concat!(env!("OUT_DIR"), "/service.rs"));
