//! Asking before a runbook runs: the host, who asks a person.
//!
//! A host that cannot be asked gets no for an answer, in words that say why. Nobody waits for a
//! person without end.

use std::time::Duration;

use rmcp::{
    RoleServer,
    model::{
        ClientResult, ElicitRequest, ElicitRequestParams, ElicitationAction, ElicitationSchema,
        ServerRequest,
    },
    service::RequestContext,
};

/// How long a person may take.
const PATIENCE: Duration = Duration::from_mins(5);

/// Asks; an error is why the answer is no.
pub(crate) async fn confirm(
    question: String,
    request: &RequestContext<RoleServer>,
) -> Result<(), String> {
    if !can_be_asked(request) {
        return Err(
            "this runbook wants a person's consent, and your host cannot be asked: it has not \
             declared the elicitation capability. Use a host that can, or have an operator take \
             `confirm = true` out of the runbook"
                .to_owned(),
        );
    }
    let form = ElicitRequestParams::FormElicitationParams {
        meta: None,
        message: question,
        requested_schema: ElicitationSchema::builder().build_unchecked(),
    };
    let asked = ServerRequest::ElicitRequest(ElicitRequest::new(form));
    let answer = tokio::select! {
        () = request.ct.cancelled() => return Err("the call was cancelled".to_owned()),
        answer = tokio::time::timeout(PATIENCE, request.peer.send_request(asked)) => answer,
    };
    match answer {
        Ok(Ok(ClientResult::ElicitResult(answer))) => match answer.action {
            ElicitationAction::Accept => Ok(()),
            ElicitationAction::Decline => Err("it was asked for and declined".to_owned()),
            _ => Err("it was asked for, and the question was dismissed".to_owned()),
        },
        Ok(Ok(_)) => Err("the host's answer to the question was none".to_owned()),
        Ok(Err(error)) => Err(format!("the host could not be asked: {error}")),
        Err(_) => Err("nobody answered the question within 5 minutes".to_owned()),
    }
}

/// A host that declares elicitation without saying which, means forms.
fn can_be_asked(request: &RequestContext<RoleServer>) -> bool {
    let declared = request
        .peer
        .peer_info()
        .and_then(|peer| peer.capabilities.elicitation.clone());
    declared.is_some_and(|kinds| kinds.form.is_some() || kinds.url.is_none())
}
