// Two videos of the same frames, in step, one before and one behind a line. Python sends {before, after, rate}; null
// takes both away.
const find = (what) => element.querySelector(what);
const frame = find(".player-frame"), tools = find(".player-tools"), empty = find(".player-empty");
const before = find("[data-part=before]"), after = find("[data-part=after]"), line = find(".player-line");
const divider = find("[data-divider]"), time = find("[data-time]"), clock = find("[data-clock]"), play = find("[data-do=play]");
let rate = 25, frames = 1, turn = 0;

const loaded = (video, url) =>
  new Promise((done) => {
    video.onloadeddata = () => done(true);
    video.onerror = () => done(false);
    video.src = url;
    video.load();
  });

function place() {
  const share = Number(divider.value);
  after.style.clipPath = `inset(0 0 0 ${share}%)`;
  line.style.left = `${share}%`;
  find(".player-left").hidden = share < 15;
  find(".player-right").hidden = share > 85;
}

// The middle of a frame: its edges belong to it in one browser, and to its neighbor in another.
const moment = (number) => (number + 0.5) / rate;
const shown = () => Math.min(Math.floor(after.currentTime * rate + 1e-3), frames - 1);

function tell() {
  const number = shown(), seconds = number / rate;
  if (document.activeElement !== time || !after.paused) time.value = number;
  const clocked = `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;
  clock.textContent = `${clocked} · frame ${number + 1} of ${frames}`;
  play.textContent = after.paused ? "Play" : "Pause";
}

function go(number) {
  after.pause();
  before.pause();
  const to = moment(Math.min(Math.max(number, 0), frames - 1));
  after.currentTime = before.currentTime = to;
  time.value = Math.floor(to * rate);
  tell();
}

async function show() {
  const value = props.value, mine = ++turn;
  const there = Boolean(value && value.after && value.before);
  delete element.dataset.ready;
  for (const part of [frame, tools]) part.hidden = !there;
  empty.hidden = there;
  after.pause();
  before.pause();
  if (!there) {
    for (const video of [before, after]) video.removeAttribute("src");
    return;
  }
  rate = value.rate || 25;
  const both = await Promise.all([loaded(before, value.before.url), loaded(after, value.after.url)]);
  if (mine !== turn) return;
  if (!both.every(Boolean)) {
    for (const part of [frame, tools]) part.hidden = true;
    empty.hidden = false;
    empty.textContent = "This browser does not play the clip; download it.";
    return;
  }
  frames = Math.max(Math.round(after.duration * rate), 1);
  time.max = frames - 1;
  frame.style.aspectRatio = `${after.videoWidth} / ${after.videoHeight}`;
  frame.style.width = `min(100%, ${(560 * after.videoWidth) / after.videoHeight}px)`;
  place();
  go(0);
  element.dataset.ready = `${after.videoWidth}x${after.videoHeight}`;
  element.dataset.frames = frames;
}

function run() {
  if (!after.paused) return after.pause();
  if (after.ended || shown() >= frames - 1) after.currentTime = 0;
  before.currentTime = after.currentTime;
  after.play().catch(() => {});
}

after.addEventListener("play", () => before.play().catch(() => {}));
after.addEventListener("pause", () => {
  before.pause();
  before.currentTime = after.currentTime;
  tell();
});
after.addEventListener("ended", () => {
  if (find("[data-loop]").checked) run();
  tell();
});
after.addEventListener("timeupdate", () => {
  if (!after.paused && Math.abs(before.currentTime - after.currentTime) > 1 / rate) before.currentTime = after.currentTime;
  tell();
});
after.addEventListener("seeked", tell);
divider.addEventListener("input", place);
time.addEventListener("input", () => go(Number(time.value)));
element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.do === "play") run();
  else if (button.dataset.do === "back") go(shown() - 1);
  else if (button.dataset.do === "on") go(shown() + 1);
});

// The line follows the mouse and the finger on the picture, too.
function drag(event) {
  const box = frame.getBoundingClientRect();
  divider.value = Math.round((100 * (event.clientX - box.left)) / box.width);
  place();
}
frame.addEventListener("pointerdown", (event) => {
  frame.setPointerCapture(event.pointerId);
  drag(event);
});
frame.addEventListener("pointermove", (event) => event.buttons && drag(event));
watch("value", show);
show();
