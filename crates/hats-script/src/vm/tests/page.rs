//! Pages: what a request is told, what is answered, how it ends.

use std::sync::Arc;

use super::*;
use crate::{Page, PageRequest, PageResponse};

/// A page that is one block of code, as a template makes it.
fn script(code: &str) -> Page {
    Page::script("/test", format!("($=>async()=>{{{code}\n}})").into(), Limits::default())
}

async fn answer(page: Page, request: PageRequest) -> Result<PageResponse, ScriptError> {
    let lanes = one_lane();
    let (_, answered) = lanes.answer(&Arc::new(page), Fake::of(Kind::Endpoint), request);
    answered.await.unwrap()
}

#[tokio::test]
async fn a_page_writes_its_answer() {
    let page = script("$(0,6);$.e=request.Method; response.Write('<b>')").text("Hello <?");
    let answered =
        answer(page, PageRequest { method: "GET".into(), ..PageRequest::default() }).await.unwrap();
    assert_eq!(String::from_utf8(answered.body).unwrap(), "Hello GET<b>");
    assert_eq!(answered.status, 200);
    assert_eq!(answered.headers, [("content-type".to_owned(), b"text/html; charset=utf-8".to_vec())]);
}
