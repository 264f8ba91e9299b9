//! Header fields that repeat arguments of a tool, held against the arguments.
//!
//! What a modern host says twice must be the same, or somebody between it and chillgate has routed
//! another call than the one that is made. Which arguments are said twice stands in the tool's
//! schema, as far as it has been seen. Fields that no schema knows are left alone.

use std::sync::Arc;

use chillgate_wire::{code, mirror};

use crate::exchange::Exchange;
use crate::gate::Refusal;
use crate::route::lists::Access;
use crate::route::{Route, catalog};

/// Holds a call's fields against its arguments. A tool that its host may not see has none to hold
/// against: that they differ would say that it is there.
///
/// # Errors
/// One of them says something else, or is missing.
pub async fn check(
    exchange: &Arc<Exchange>,
    route: &Route,
    access: &Access,
) -> Result<(), Refusal> {
    let (Some(fields), Some(tool)) = (exchange.mirrored(), route.call.tool()) else {
        return Ok(());
    };
    if access.cuts() && !access.shows(exchange, &route.call.server, "tools/list", tool) {
        return Ok(());
    }
    let look = !fields.is_empty();
    let params = catalog::mirrored(exchange, &route.backend, tool, look).await;
    let arguments = route.call.arguments.as_deref().unwrap_or(b"{}");
    for param in &*params {
        let name = param.name.to_ascii_lowercase();
        let field = fields.iter().find(|(field, _)| *field == name);
        let field = field.map(|(_, text)| text.as_str());
        if !param.agrees(field, arguments) {
            let said =
                |text: Option<&str>| text.map_or("nothing".to_owned(), |text| format!("{text:?}"));
            let (body, name) = (param.value(arguments), &param.name);
            return Err(Refusal::Answered {
                code: code::HEADER_MISMATCH,
                message: format!(
                    "Header mismatch: `{}{name}` says {}, `{}` in the body says {}",
                    mirror::PARAM,
                    said(field),
                    param.path.join("."),
                    said(body.as_deref()),
                ),
                data: None,
            });
        }
    }
    Ok(())
}
