//! Which revisions of the protocol are spoken, and what is refused because of its era.
//!
//! It stands apart because a server of one era has to look like one on every transport: the SDK
//! itself knows both, and would answer in the words of the other. It never looks at what a request
//! asks for, only at how it is put.

use std::borrow::Cow;

use clap::ValueEnum;
use rmcp::{
    ErrorData, RoleServer,
    model::{ClientRequest, DiscoverRequestMethod, GetMeta, PingRequestMethod, ProtocolVersion},
    service::RequestContext,
};

const MODERN: &[ProtocolVersion] = &[ProtocolVersion::V_2026_07_28];

/// What this server pretends to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Eras {
    /// 2026-07-28 and the revisions with a handshake.
    #[default]
    Both,
    /// 2026-07-28 alone.
    Modern,
    /// The revisions with a handshake alone.
    Legacy,
}

impl Eras {
    pub(crate) fn versions(self) -> Cow<'static, [ProtocolVersion]> {
        Cow::Borrowed(match self {
            Self::Both => ProtocolVersion::KNOWN_VERSIONS,
            Self::Modern => MODERN,
            Self::Legacy => ProtocolVersion::known_up_to(&ProtocolVersion::V_2025_11_25),
        })
    }

    /// What the server says of itself.
    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Both => "Speaks every revision, with a handshake and without.",
            Self::Modern => "Speaks 2026-07-28 alone.",
            Self::Legacy => "Speaks 2025-11-25 and older.",
        }
    }

    pub(crate) fn has_modern(self) -> bool {
        self != Self::Legacy
    }

    pub(crate) fn has_legacy(self) -> bool {
        self != Self::Modern
    }

    /// The answer to a request that belongs to the era which is not spoken here.
    pub(crate) fn refusal(self, request: &ClientRequest) -> Option<ErrorData> {
        let said = request.get_meta().protocol_version();
        let modern = said.as_ref().is_some_and(is_modern);
        match self {
            Self::Both => None,
            Self::Modern => match request {
                ClientRequest::InitializeRequest(request) => {
                    Some(ErrorData::unsupported_protocol_version(
                        request.params.protocol_version.clone(),
                        MODERN,
                    ))
                }
                // The SDK answers this one before it knows the era of a stdio client.
                ClientRequest::PingRequest(_) if !modern => {
                    Some(ErrorData::method_not_found::<PingRequestMethod>())
                }
                _ => None,
            },
            // A server of that time has never heard of the method, and of a request before the
            // handshake it knows only that it comes too early.
            Self::Legacy if request.method() == "server/discover" => {
                Some(ErrorData::method_not_found::<DiscoverRequestMethod>())
            }
            Self::Legacy => {
                modern.then(|| ErrorData::invalid_request("The server is not initialized", None))
            }
        }
    }
}

/// Whether a revision has no handshake.
pub(crate) fn is_modern(version: &ProtocolVersion) -> bool {
    !version.has_initialize()
}

/// Whether the request that is being handled came in the words of 2026-07-28.
pub(crate) fn came_modern(context: &RequestContext<RoleServer>) -> bool {
    context.protocol_version().as_ref().is_some_and(is_modern)
}
