//! The HTTP side: `/metrics`, `/api/v1/contexts`, and a page that leads there.

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use tracing::error;

use super::metrics;
use crate::{agent::task::AgentHandle, snapshot::Wanted};

const LANDING_PAGE: &str = include_str!("landing.html");

#[derive(Clone)]
struct Web {
    agent: AgentHandle,
    max_context_series: usize,
}

/// The pages of an agent.
pub fn router(agent: AgentHandle, max_context_series: usize) -> Router {
    Router::new()
        .route("/", get(|| async { Html(LANDING_PAGE) }))
        .route("/metrics", get(scrape))
        .route("/api/v1/contexts", get(contexts))
        .fallback(|| async { (StatusCode::NOT_FOUND, "no such page; see /\n") })
        .with_state(Web { agent, max_context_series })
}

/// An answer that could not be had.
struct Failed(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        error!(error = format!("{:#}", self.0), "a request failed");
        (StatusCode::INTERNAL_SERVER_ERROR, format!("{:#}\n", self.0)).into_response()
    }
}

async fn scrape(State(web): State<Web>) -> Result<impl IntoResponse, Failed> {
    let snapshot = web.agent.snapshot_of(Wanted::Series(web.max_context_series)).await?;
    let (text, scraped) = metrics::encode(&snapshot)?;
    // Not before there is an answer: whoever has gone by now has seen nothing.
    web.agent.scraped(scraped).await?;
    Ok(([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text))
}

async fn contexts(State(web): State<Web>) -> Result<impl IntoResponse, Failed> {
    Ok(Json(web.agent.snapshot().await?))
}
