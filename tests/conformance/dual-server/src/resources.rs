//! The resources: three that are listed, and one for every id of a template.
//!
//! They stand apart because none of them has anything to do with a call or an era; only the code
//! of "not found" differs, and the SDK sees to that. Reading one never changes it.

use rmcp::{
    ErrorData,
    model::{Resource, ResourceContents, ResourceTemplate},
};
use serde_json::json;

use crate::samples::RED_DOT_PNG;

const TEXT: &str = "test://static-text";
const BINARY: &str = "test://static-binary";
const WATCHED: &str = "test://watched-resource";
const TEMPLATE: &str = "test://template/{id}/data";

pub(crate) fn listed() -> Vec<Resource> {
    let resource = |uri, name, about, kind| {
        Resource::new(uri, name)
            .with_description(about)
            .with_mime_type(kind)
    };
    vec![
        resource(TEXT, "static-text", "A text", "text/plain"),
        resource(BINARY, "static-binary", "An image", "image/png"),
        resource(
            WATCHED,
            "watched-resource",
            "Something to watch",
            "text/plain",
        ),
    ]
}

pub(crate) fn templates() -> Vec<ResourceTemplate> {
    let data = ResourceTemplate::new(TEMPLATE, "data");
    vec![
        data.with_description("Data by id")
            .with_mime_type("application/json"),
    ]
}

pub(crate) fn read(uri: &str) -> Result<ResourceContents, ErrorData> {
    match uri {
        TEXT => Ok(ResourceContents::text("The text of a resource.", uri)),
        BINARY => Ok(ResourceContents::blob(RED_DOT_PNG, uri).with_mime_type("image/png")),
        WATCHED => Ok(ResourceContents::text("Nothing has happened yet.", uri)),
        _ => by_id(uri),
    }
}

fn by_id(uri: &str) -> Result<ResourceContents, ErrorData> {
    let id = uri
        .strip_prefix("test://template/")
        .and_then(|rest| rest.strip_suffix("/data"))
        .filter(|id| !id.is_empty() && !id.contains('/'));
    let Some(id) = id else {
        return Err(ErrorData::resource_not_found(
            "Resource not found",
            Some(json!({ "uri": uri })),
        ));
    };
    let data = json!({ "id": id, "data": format!("All about {id}") });
    Ok(ResourceContents::text(data.to_string(), uri).with_mime_type("application/json"))
}
