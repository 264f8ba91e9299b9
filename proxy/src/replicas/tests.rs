//! What replicas know of each other, and what one takes from another, without a store.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use chillgate_policies::engine::Grants;

use super::*;
use crate::client::Credential;
use crate::config::Prefix;
use crate::identity::Principal;

fn replica() -> Replicas {
    let state = config::State {
        store: vec!["redis://127.0.0.1:1".to_owned()],
        ..config::State::default()
    };
    let target = crate::store::Target::of(&state).expect("a store");
    let link = Link::new(target, "test", Duration::from_millis(25));
    let config = config::Replicas {
        listen: "127.0.0.1:0".parse().expect("an address"),
        advertise: None,
        secret: None,
        tls: None,
        ca: None,
        rotate: Duration::from_hours(24),
    };
    Replicas::sharing(link, Some(config))
}

/// Two that have met.
fn pair() -> (Replicas, Replicas) {
    let (one, two) = (replica(), replica());
    for replica in [&one, &two] {
        let here = [&one, &two].map(|it| {
            (
                it.own().0,
                format!("http://127.0.0.1:{}", 1 + it.own().0 % 99),
            )
        });
        let meeting = Meeting {
            now: 1,
            key: 7,
            here: here.to_vec(),
            keys: [(7, [7; 32]), (8, [8; 32])].into(),
            ..Meeting::default()
        };
        replica.take(meeting, None);
    }
    (one, two)
}

fn pass() -> Pass {
    Pass {
        who: Principal {
            agent: "ann".into(),
            subject: "ann\nissuer".into(),
            grants: Arc::new(Grants {
                groups: vec!["team".into()],
                scopes: vec!["a".into(), "b".into()],
            }),
            until: Some(UNIX_EPOCH + Duration::from_secs(4_000_000_000)),
            says: Some(Arc::new([3; 32])),
            token: Some(Arc::new(Credential::new("the-token", &[3; 32]))),
        },
        prefix: Prefix::Never,
        origin: "https://gate.example".to_owned(),
        peer: Some("10.0.0.1:2".into()),
        body: digest(b"body"),
    }
}

#[tokio::test]
async fn a_session_id_names_its_replica_to_the_others() {
    let (one, two) = pair();
    let id = one.session_id("ann");
    assert!(matches!(two.keeps(&id, "ann"), Some(Place::At(other)) if other.id == one.own()));
    assert!(two.keeps(&id, "eve").is_none());
    assert!(one.keeps(&id, "ann").is_none(), "its own");
    assert_ne!(one.session_id("ann"), id);
    let meeting = Meeting {
        key: 7,
        keys: [(7, [7; 32]), (8, [8; 32])].into(),
        ..Meeting::default()
    };
    two.take(meeting, None);
    assert!(matches!(two.keeps(&id, "ann"), Some(Place::Gone(gone)) if gone == one.own()));
    let alone = Replicas::alone();
    assert_eq!(alone.session_id("ann").len(), 32);
    assert!(alone.keeps(&id, "ann").is_none());
}

#[tokio::test]
async fn a_pass_says_who_it_is_once_to_one_replica_for_one_request() {
    let (one, two) = pair();
    let shown = one.pass(two.own(), "POST", "/mcp?a=1", &pass());
    for (method, path) in [("GET", "/mcp?a=1"), ("POST", "/mcp"), ("POST", "/mcp?a=2")] {
        assert_eq!(
            two.accept(&shown, method, path).err(),
            Some(PassError::Forged)
        );
    }
    assert_eq!(
        one.accept(&shown, "POST", "/mcp?a=1").err(),
        Some(PassError::Forged),
        "not for it"
    );
    let read = two.accept(&shown, "POST", "/mcp?a=1").expect("a pass");
    let wrote = pass();
    assert_eq!(
        (&read.who.agent, &read.who.grants),
        (&wrote.who.agent, &wrote.who.grants)
    );
    assert_eq!(
        (read.who.until, read.prefix),
        (wrote.who.until, wrote.prefix)
    );
    assert_eq!(
        (&read.origin, &read.peer, read.body),
        (&wrote.origin, &wrote.peer, wrote.body)
    );
    assert_eq!(
        two.accept(&shown, "POST", "/mcp?a=1").err(),
        Some(PassError::Again)
    );
    assert_eq!(
        (&read.who.subject, &read.who.says),
        (&wrote.who.subject, &wrote.who.says)
    );
    let token = read.who.token.as_deref().map(Credential::for_a_replica);
    assert_eq!(token, Some("the-token"));
    for forged in [
        "",
        ".",
        &shown[1..],
        &shown[..shown.len() - 4],
        &format!("A{shown}"),
    ] {
        let said = two.accept(forged, "POST", "/mcp?a=1").err();
        assert_eq!(said, Some(PassError::Forged), "{forged}");
    }
    assert_eq!(
        Replicas::alone().accept(&shown, "POST", "/mcp?a=1").err(),
        Some(PassError::Forged)
    );
}

#[tokio::test]
async fn who_is_gone_is_waited_for_no_longer() {
    let (one, two) = pair();
    let waiting = tokio::spawn({
        let two = two.clone();
        let owner = one.own();
        async move { two.until_gone(owner).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    two.take(
        Meeting {
            key: 7,
            ..Meeting::default()
        },
        None,
    );
    waiting.await.expect("it is gone");
    assert_eq!(two.count(), 1);
}
