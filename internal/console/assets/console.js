// The page as the server rendered it is whole; this keeps it up to date. All
// text goes in through textContent: an answer is never markup.
const feed = document.getElementById("feed");
const lags = document.getElementById("lags");
const counts = document.getElementById("counts");
const status = document.getElementById("status");
const news = document.getElementById("news");
const pause = document.getElementById("pause");
const size = Number(document.body.dataset.size);

// Milliseconds: between two tries after the server refused or ended the
// connection for good, and between two announcements to screen readers.
const RETRY = 5000;
const QUIET = 5000;

let cursor = document.body.dataset.cursor;
let source = null; // the connection, null while paused or hidden
let timer = 0; // of the next try
let paused = false;

// make clones a template and fills it from a view of the same shape.
function make(template, view) {
  const node = document.getElementById(template).content.firstElementChild.cloneNode(true);
  fill(node, view);
  return node;
}

// fill sets the text of every [data-text] below node. A text that is empty
// hides the [hidden] element it stands in; one that is not shows it.
function fill(node, view) {
  for (const el of node.querySelectorAll("[data-text]")) {
    const text = view[el.dataset.text];
    if (text === undefined) continue;
    el.textContent = text;
    const optional = el.closest("[hidden]");
    if (optional && text !== "") optional.hidden = false;
  }
}

function makeTrait(view) {
  const row = make("trait", view);
  row.querySelector("td").dataset.type = view.type;
  return row;
}

function makeCall(view) {
  const call = make("call", view);
  call.querySelector("[data-list=traits]").replaceChildren(...view.traits.map(makeTrait));
  return call;
}

function makeEvent(view) {
  const item = make("event", view);
  item.dataset.outcome = view.outcome;
  item.classList.add("fresh");
  item.querySelector("time").dateTime = view.time;
  item.querySelector("[data-list=calls]").replaceChildren(...view.calls.map(makeCall));
  return item;
}

function makeLag(view) {
  const item = make("lag", view);
  item.dataset.state = view.state;
  return item;
}

function makeGap(text) {
  const item = document.createElement("li");
  item.className = "gap";
  item.textContent = text;
  return item;
}

function show(update) {
  fill(counts, update.counts);
  if (lags) lags.replaceChildren(...update.lags.map(makeLag));
  if (update.reset) feed.replaceChildren();
  if (update.skipped) feed.prepend(makeGap(update.skipped));
  feed.prepend(...update.events.map(makeEvent));
  while (feed.children.length > size) feed.lastElementChild.remove();
  if (update.events.length > 0) announce(update);
}

let announced = 0;
function announce(update) {
  if (Date.now() - announced < QUIET) return;
  announced = Date.now();
  const { outcome, tenant } = update.events[0];
  news.textContent = `${outcome}, ${tenant}; ${update.counts.delivered} delivered so far`;
}

function connect() {
  close();
  source = new EventSource("api/live?after=" + encodeURIComponent(cursor));
  source.addEventListener("open", () => say("live"));
  source.addEventListener("update", (event) => {
    cursor = event.lastEventId;
    show(JSON.parse(event.data));
  });
  source.addEventListener("error", () => {
    say("reconnecting");
    if (source.readyState === EventSource.CLOSED) timer = setTimeout(connect, RETRY);
  });
}

function close() {
  clearTimeout(timer);
  if (source) source.close();
  source = null;
}

function say(state) {
  status.textContent = state;
  status.parentElement.dataset.state = state;
}

// A page that nobody reads holds no connection; it catches up from its cursor.
function follow() {
  pause.textContent = paused ? "Resume" : "Pause";
  if (paused || document.hidden) {
    close();
    say("paused");
  } else if (!source) {
    say("connecting");
    connect();
  }
}

pause.addEventListener("click", () => {
  paused = !paused;
  follow();
});
document.addEventListener("visibilitychange", follow);
addEventListener("pagehide", close);
addEventListener("pageshow", follow);
pause.hidden = false;
follow();
