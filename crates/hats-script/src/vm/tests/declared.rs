//! What `hats.d.ts` declares for jobs and endpoints is what their scopes have. (What it declares for threads is compared with a whole worker's
//! thread, by the TypeScript compiler.)

use std::collections::BTreeSet;

use super::*;

const DECLARATIONS: &str = include_str!("../../../hats.d.ts");

/// The names of an interface's members, those of what it extends included.
fn declared(interface: &str) -> BTreeSet<String> {
    let head = format!("  interface {interface} ");
    let begin =
        DECLARATIONS.find(&head).unwrap_or_else(|| panic!("{interface} is not declared")) + head.len();
    let (extends, rest) = DECLARATIONS[begin..].split_once("{\n").unwrap();
    let (body, _) = rest.split_once("\n  }\n").unwrap();
    let members = body.lines().filter_map(|line| {
        // Deeper lines are comments and parameters.
        let member = line
            .strip_prefix("    ")
            .filter(|member| member.starts_with(|c: char| c.is_ascii_alphabetic()))?;
        let name = member.strip_prefix("readonly ").unwrap_or(member);
        Some(name.split(|c: char| !c.is_ascii_alphanumeric()).next()?.to_owned())
    });
    let mut members: BTreeSet<_> = members.collect();
    if let Some(base) = extends.strip_prefix("extends ") {
        members.extend(declared(base.trim()));
    }
    members
}

/// What an expression gives in a scope, as a set of words.
async fn words(fake: &std::sync::Arc<Fake>, expression: &'static str) -> BTreeSet<String> {
    let lanes = one_lane();
    let run = spawn(&lanes, fake, Limits::default(), move |vm| vm.eval(&format!("{expression}.join(' ')")));
    run.1.await.unwrap().split(' ').map(str::to_owned).collect()
}

#[tokio::test]
async fn a_job_has_what_is_declared_for_jobs() {
    let names = "Object.getOwnPropertyNames(job)";
    assert_eq!(words(&Fake::job(), names).await, declared("Job"));
    let names = "Object.getOwnPropertyNames(thread)";
    assert_eq!(words(&Fake::job(), names).await, declared("Job"));
    assert_eq!(words(&Fake::new(), names).await, declared("Thread"));
}

#[tokio::test]
async fn a_job_has_every_name_that_threads_have_and_job_itself() {
    let names = "Object.getOwnPropertyNames(globalThis)";
    let mut of_threads = words(&Fake::new(), names).await;
    assert!(of_threads.insert("job".to_owned()));
    assert_eq!(words(&Fake::job(), names).await, of_threads);
}

#[tokio::test]
async fn an_endpoint_has_what_is_declared_for_endpoints() {
    let fake = Fake::of(Kind::Endpoint);
    assert_eq!(words(&fake, "Object.getOwnPropertyNames(request)").await, declared("EndpointRequest"));
    assert_eq!(words(&fake, "Object.getOwnPropertyNames(response)").await, declared("EndpointResponse"));
}

#[tokio::test]
async fn an_endpoint_has_request_and_response_instead_of_thread_and_job() {
    let names = "Object.getOwnPropertyNames(globalThis)";
    let mut of_threads = words(&Fake::new(), names).await;
    assert!(of_threads.remove("thread"));
    of_threads.extend(["request", "response"].map(str::to_owned));
    assert_eq!(words(&Fake::of(Kind::Endpoint), names).await, of_threads);
}
