let playing = false, due = 0;

// --- playback -------------------------------------------------------------------------------------
function show(number) {
  frame = Math.min(Math.max(number, 0), data.frames.length - 1);
  draw();
}

function setPlaying(wanted) {
  playing = wanted;
  if (playing && frame === data.frames.length - 1) frame = 0;
  due = performance.now();
  byId("play").textContent = playing ? "Pause" : "Play";
  byId("play").setAttribute("aria-pressed", playing);
  if (playing) requestAnimationFrame(tick); else announce();
}

function tick(now) {
  if (!playing) return;
  const wait = 1000 / (FRAMES_PER_SECOND * Number(byId("speed").value));
  const passed = Math.floor((now - due) / wait);
  if (passed > 0) {
    due += passed * wait;
    show(frame + passed);
  }
  if (frame === data.frames.length - 1) setPlaying(false); else requestAnimationFrame(tick);
}

// Said aloud when the user has stopped somewhere, not at every frame of a running animation.
function announce() {
  const [k] = data.frames[frame], layer = data.layers[k];
  const said = track ? layer.status : `active: ${Object.keys(layer.multipliers).join("; ") || "nothing"}`;
  byId("status").textContent = `Frame ${frame}, ${numberOf(k).toLowerCase()}; ${said}.`;
}

function go(number) {
  if (playing) setPlaying(false);
  show(number);
  announce();
}

function goLayer(by) {
  const k = data.frames[frame][0] + by;
  if (k < 0) return go(0);
  const last = data.frames.findLastIndex(([layer]) => layer === Math.min(k, data.layers.length - 1));
  return go(last);
}

byId("slider").max = data.frames.length - 1;
byId("slider").addEventListener("input", (event) => go(Number(event.target.value)));
byId("play").addEventListener("click", () => setPlaying(!playing));
byId("back").addEventListener("click", () => go(frame - 1));
byId("forward").addEventListener("click", () => go(frame + 1));
byId("layer-back").addEventListener("click", () => goLayer(-1));
byId("layer-forward").addEventListener("click", () => goLayer(1));
for (const id of ["show-planes", "show-inactive", "show-multipliers", "show-trail"]) byId(id).addEventListener("change", draw);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const on = event.target.tagName, typed = on === "SELECT" || on === "INPUT" || on === "BUTTON";
  const actions = { ArrowLeft: () => go(frame - 1), ArrowRight: () => go(frame + 1), Home: () => go(0),
    End: () => go(data.frames.length - 1), PageUp: () => goLayer(-1), PageDown: () => goLayer(1) };
  if (event.key === " " && !typed) { event.preventDefault(); setPlaying(!playing); }
  else if (actions[event.key] && on !== "SELECT") { event.preventDefault(); actions[event.key](); }
});

for (const shown of document.querySelectorAll(track ? ".of-layers" : ".of-ticks")) shown.hidden = true;
byId("layer-back").textContent = `${word} \u2212`;
byId("layer-forward").textContent = `${word} +`;
byId("headline").textContent = data.headline;
document.title = data.headline;
drawBackdrop();
// Letters keep their size on the screen, however narrow the window.
new ResizeObserver(() => {
  labels.setAttribute("font-size", 12 * 2 * bound / Math.max(scene.clientWidth, 1));
}).observe(scene);
draw();
announce();
