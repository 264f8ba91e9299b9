//! Holding an answer: a timer in the request's own task.
//!
//! It ends by itself or because the caller gave up; nobody else is slowed by it. A caller that
//! gave a progress token hears at once that it waits, and again each second. Telling never
//! prolongs the wait: a caller that does not read its progress still gets its answer on time.

use std::{convert::Infallible, future::pending, time::Duration};

use rmcp::{RoleServer, model::ProgressNotificationParam, service::RequestContext};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{Lang, lines};

const TELL_EVERY: Duration = Duration::from_secs(1);

/// The caller cancelled, or its connection ended, before the hold was over.
#[derive(Debug)]
pub(crate) struct GivenUp;

/// Waits for `span`, or until the request is cancelled.
pub(crate) async fn hold(
    span: Duration,
    lang: Lang,
    request: &RequestContext<RoleServer>,
) -> Result<(), GivenUp> {
    tokio::select! {
        biased;
        () = request.ct.cancelled() => Err(GivenUp),
        () = sleep(span) => Ok(()),
        never = tell(span, lang, request) => match never {},
    }
}

/// Reports the seconds waited until dropped, beginning with 0 and staying below the total.
async fn tell(span: Duration, lang: Lang, request: &RequestContext<RoleServer>) -> Infallible {
    let Some(token) = request.meta.get_progress_token() else {
        return pending().await;
    };
    let start = Instant::now();
    let mut waited = Duration::ZERO;
    for step in 0.. {
        let progress = ProgressNotificationParam::new(token.clone(), waited.as_secs_f64())
            .with_total(span.as_secs_f64())
            .with_message(lines::waiting(lang, step));
        let told = request.peer.notify_progress(progress).await;
        waited += TELL_EVERY;
        if told.is_err() || waited >= span {
            break;
        }
        sleep_until(start + waited).await;
    }
    pending().await
}
