// The page of geoloc: a photo in, an answer and a map out. Nothing is loaded from anywhere but this service.
"use strict";

const KEPT = 12; // photos in the history of this browser
const STORE = "geoloc-history";
const byId = (id) => document.getElementById(id);
const state = { photo: null, area: null, drawing: null, indices: [], imagery: true };

// ---------------------------------------------------------------- talking to the service

function headers() {
  const key = byId("key").value.trim();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function pictureOf(path) {
  const response = await fetch(path, { headers: headers() });
  if (response.status !== 200) return { status: response.status, url: null };
  return { status: 200, url: URL.createObjectURL(await response.blob()) };
}

function formOf(photos, fields) {
  const form = new FormData();
  for (const photo of photos) form.append("image", photo, "photo");
  for (const [id, name] of Object.entries(fields)) if (byId(id).value) form.append(name, byId(id).value);
  return form;
}

const KNOWN = { view: "view", heading: "heading_deg", fov: "fov_deg", extent: "extent_m" };

function addArea(form) {
  if (!state.area) return;
  form.append("lat", state.area.lat);
  form.append("lon", state.area.lon);
  form.append("radius_m", state.area.radius_m);
}

async function post(path, form) {
  const response = await fetch(path, { method: "POST", body: form, headers: headers() });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.detail || `The service answered ${response.status}.`);
  return answer;
}

function ask(photo) {
  const form = formOf([photo], { ...KNOWN, index: "index" });
  form.append("k", "12");
  addArea(form);
  return post("v1/localize", form);
}

// ---------------------------------------------------------------- the map

const map = L.map("map", { zoomControl: true, attributionControl: false, minZoom: 2, maxZoom: 21 });
map.setView([0, 0], 2);
L.control.scale({ imperial: false }).addTo(map);
const shown = L.layerGroup().addTo(map);
const areaLayer = L.layerGroup().addTo(map);
const headingLayer = L.layerGroup().addTo(map);

// Tiles are fetched by hand, because an <img> cannot carry an API key.
const Imagery = L.GridLayer.extend({
  createTile(place, done) {
    const tile = document.createElement("div");
    if (!state.imagery) {
      setTimeout(() => done(null, tile));
      return tile;
    }
    pictureOf(`v1/map/${place.z}/${place.x}/${place.y}`).then((picture) => {
      if (picture.status === 404) state.imagery = false;
      if (picture.url) tile.style.backgroundImage = `url(${picture.url})`;
      tile.style.backgroundSize = "cover";
      done(null, tile);
    }, (error) => done(error, tile));
    return tile;
  },
});
new Imagery({ maxNativeZoom: 20, maxZoom: 21, noWrap: true }).addTo(map);

function boundsOf(index) {
  const b = index.bounds;
  return b ? [[b.south, b.west], [b.north, b.east]] : null;
}

function destination(lat, lon, heading, metres) {
  const turn = (heading * Math.PI) / 180;
  const north = (metres * Math.cos(turn)) / 111320;
  const east = (metres * Math.sin(turn)) / (111320 * Math.cos((lat * Math.PI) / 180));
  return [lat + north, lon + east];
}

function showOnMap(answer) {
  shown.clearLayers();
  const points = []; // what the map is to show: the place and what it rests on, else all candidates
  answer.matches.forEach((match, position) => {
    if (match.lat === null) return;
    if (match.in_cluster || !answer.located) points.push([match.lat, match.lon]);
    const colour = match.in_cluster ? "#1f9d4d" : "#c77700";
    L.circleMarker([match.lat, match.lon], { radius: 7, color: "#fff", weight: 2, fillColor: colour, fillOpacity: 0.95 })
      .bindTooltip(`${position + 1}. ${match.tile_id}`).addTo(shown);
  });
  (answer.hypotheses || []).slice(1).forEach((other) => {
    if (typeof other.lat !== "number") return;
    if (!answer.located) points.push([other.lat, other.lon]);
    L.circleMarker([other.lat, other.lon], { radius: 11, color: "#7a3fd1", weight: 3, fillOpacity: 0.2 })
      .bindTooltip("another place that it may be").addTo(shown);
  });
  if (answer.located) {
    const here = [answer.lat, answer.lon];
    points.push(here);
    if (answer.radius_m) {
      const circle = L.circle(here, { radius: answer.radius_m, color: "#d4271e", weight: 2, fillOpacity: 0.12 }).addTo(shown);
      const box = circle.getBounds();
      points.push(box.getSouthWest(), box.getNorthEast());
    }
    if (answer.heading_deg !== null) {
      const length = Math.max(15, (answer.radius_m || 30) * 1.2);
      arrow(here, answer.heading_deg, length, "#d4271e").bindTooltip("middle of the photo").addTo(shown);
    }
    const icon = L.divIcon({ className: "pin", iconSize: [22, 22] });
    L.marker(here, { icon, title: "The photo was taken here", alt: "The photo was taken here" }).addTo(shown);
  }
  if (points.length) map.fitBounds(L.latLngBounds(points).pad(0.3), { maxZoom: 18 });
}

function arrow(from, heading, length, color) {
  const tip = destination(from[0], from[1], heading, length);
  const left = destination(tip[0], tip[1], heading + 150, length / 4);
  const right = destination(tip[0], tip[1], heading - 150, length / 4);
  return L.polyline([from, tip, left, tip, right], { color, weight: 4 });
}

function bearing(from, to) {
  const east = (to.lng - from.lng) * Math.cos((from.lat * Math.PI) / 180);
  return ((Math.atan2(east, to.lat - from.lat) * 180) / Math.PI + 360) % 360;
}

// ---------------------------------------------------------------- area and heading, drawn on the map

function showArea() {
  areaLayer.clearLayers();
  byId("clear").hidden = !state.area;
  if (!state.area) {
    byId("area-text").textContent = "Everywhere.";
    return;
  }
  const { lat, lon, radius_m: radius } = state.area;
  byId("area-text").textContent = `Within ${Math.round(radius)} m of ${lat.toFixed(5)}, ${lon.toFixed(5)}.`;
  L.circle([lat, lon], { radius, color: "#0a58a8", dashArray: "6 6", weight: 2, fillOpacity: 0.06, interactive: false }).addTo(areaLayer);
}

function setArea(lat, lon, radius) {
  state.area = { lat, lon: ((lon + 540) % 360) - 180, radius_m: Math.max(10, Math.min(radius, 1e6)) };
  byId("radius").value = Math.round(state.area.radius_m);
  showArea();
}

function drawHeading(from, to) {
  const heading = bearing(from, to);
  byId("heading").value = Math.round(heading) % 360;
  headingLayer.clearLayers();
  arrow([from.lat, from.lng], heading, map.distance(from, to), "#0a58a8").addTo(headingLayer);
}

const DRAWN = { // what a stroke from one point to another sets, by the button that is pressed
  draw: (from, to) => setArea(from.lat, from.lng, Math.max(10, map.distance(from, to))),
  "draw-heading": drawHeading,
};

function draw(what) {
  state.drawing = what;
  for (const id of Object.keys(DRAWN)) byId(id).setAttribute("aria-pressed", String(id === what));
  map.getContainer().classList.toggle("drawing", Boolean(what));
  map.dragging[what ? "disable" : "enable"]();
}

// Pointer events, so that a finger draws as a mouse does.
let begin = null;
const ground = map.getContainer();
ground.addEventListener("pointerdown", (event) => {
  if (!state.drawing || !event.isPrimary || event.target.closest(".leaflet-control")) return;
  begin = map.mouseEventToLatLng(event);
  ground.setPointerCapture(event.pointerId);
});
ground.addEventListener("pointermove", (event) => {
  if (begin) DRAWN[state.drawing](begin, map.mouseEventToLatLng(event));
});
ground.addEventListener("pointerup", () => { if (begin) { begin = null; draw(null); } });
ground.addEventListener("pointercancel", () => { begin = null; draw(null); });
for (const id of Object.keys(DRAWN)) byId(id).addEventListener("click", () => draw(state.drawing === id ? null : id));
byId("heading").addEventListener("input", () => headingLayer.clearLayers());
byId("around").addEventListener("click", () => {
  const middle = map.getCenter();
  setArea(middle.lat, middle.lng, Number(byId("radius").value) || 500);
});
byId("clear").addEventListener("click", () => { state.area = null; showArea(); });
byId("radius").addEventListener("change", () => {
  if (state.area) setArea(state.area.lat, state.area.lon, Number(byId("radius").value) || 500);
});

// ---------------------------------------------------------------- the answer in words

function element(kind, text, attributes) {
  const made = document.createElement(kind);
  if (text) made.textContent = text;
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  return made;
}

function inWords(confidence) {
  if (confidence === null || confidence === undefined) return "unknown: the index is not calibrated for such photos";
  const percent = `${Math.round(100 * confidence)} %`;
  if (confidence >= 0.8) return `very likely (${percent})`;
  if (confidence >= 0.5) return `likely (${percent})`;
  return `uncertain (${percent})`;
}

function fact(list, name, text) {
  list.append(element("dt", name), element("dd", text));
}

function showAnswer(answer) {
  const unsure = !(answer.confidence >= 0.5); // unknown is not sure
  const card = element("div", "", { class: `card ${!answer.located ? "bad" : unsure ? "unsure" : "good"}` });
  const list = element("dl");
  if (answer.located) {
    card.append(element("h2", `${answer.lat.toFixed(6)}, ${answer.lon.toFixed(6)}`));
    fact(list, answer.radius_m ? "Inside the circle" : "Confidence", inWords(answer.confidence));
    if (answer.radius_m) fact(list, "Circle", `${Math.round(answer.radius_m)} m around it`);
    if (answer.heading_deg !== null) fact(list, "Middle looks along", `${Math.round(answer.heading_deg)}° from north`);
  } else {
    card.append(element("h2", "Not located"), element("p", answer.detail || answer.reason || ""));
    if (answer.confidence !== null) fact(list, "Best guess", inWords(answer.confidence));
  }
  if (answer.view) fact(list, "Taken for", `${answer.view}, ${Math.round(answer.fov_deg)}° wide`);
  if (answer.assumed.length) fact(list, "Assumed", answer.assumed.join(", ").replaceAll("_deg", "").replaceAll("_", " "));
  if (answer.shards_answered < answer.shards_total) {
    fact(list, "Incomplete", `${answer.shards_answered} of ${answer.shards_total} shards were searched`);
  }
  card.append(list);
  const steps = Object.entries(answer.timings_ms).map(([name, value]) => `${name} ${Math.round(value)} ms`).join(", ");
  card.append(element("p", `${steps}. Snapshot ${answer.snapshot_id.slice(0, 8)}, model ${answer.model_id}.`, { class: "quiet" }));
  card.append(matchList(answer));
  byId("answer").replaceChildren(card);
}

function matchList(answer) {
  const matches = element("ol", "", { class: "matches", "aria-label": "Tiles that look alike, the best first" });
  answer.matches.forEach((match, position) => {
    const item = element("li");
    const score = match.similarity === null ? `${match.distance_bits} bits` : match.similarity.toFixed(3);
    const button = element("button", "", { type: "button", class: match.in_cluster ? "member" : "" });
    if (state.imagery) {
      const picture = element("img", "", { alt: "", width: 112, height: 112 });
      pictureOf(`v1/tiles/${encodeURIComponent(match.tile_id)}/image`).then((found) => {
        if (found.url) picture.src = found.url; else picture.remove();
      }, () => picture.remove());
      button.append(picture);
    }
    button.append(element("span", `${position + 1}. ${score}${match.in_cluster ? ", used" : ""}`));
    button.title = match.tile_id;
    button.addEventListener("click", () => { if (match.lat !== null) map.setView([match.lat, match.lon], 19); });
    item.append(button);
    matches.append(item);
  });
  return matches;
}

function showProblem(text) {
  const card = element("div", "", { class: "card bad", role: "alert" });
  card.append(element("h2", "No answer"), element("p", text));
  byId("answer").replaceChildren(card);
}

// ---------------------------------------------------------------- photos

function takePhotos(files) {
  const photos = [...files];
  if (photos.length > 1 || (photos.length && goesOn())) takeRoute(photos); // see route.js
  else if (photos.length) takePhoto(photos[0]);
}

function takePhoto(file) {
  state.photo = file;
  endRoute();
  const preview = byId("preview");
  if (preview.src) URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(file);
  preview.alt = "The photo to locate";
  preview.hidden = false;
  preview.onerror = () => { preview.hidden = true; }; // a format that the browser cannot show, the service may
  byId("invite").textContent = file.name || "A pasted photo";
  byId("locate").disabled = false;
  locate();
}

async function locate() {
  await working(async () => {
    const answer = await ask(state.photo);
    showAnswer(answer);
    showOnMap(answer);
    await remember(answer);
  });
}

async function working(work) {
  const button = byId("locate");
  button.disabled = true;
  byId("answer").replaceChildren(element("p", "Looking…"));
  try {
    await work();
  } catch (error) {
    showProblem(error.message);
  } finally {
    button.disabled = false;
  }
}

byId("locate").addEventListener("click", () => (route.photos.length ? locateRoute() : locate()));
byId("file").addEventListener("change", (event) => {
  takePhotos(event.target.files);
  event.target.value = ""; // the same photo may be chosen again
});
document.addEventListener("paste", (event) => {
  takePhotos([...event.clipboardData.files].filter((one) => one.type.startsWith("image/")));
});
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); byId("drop").classList.add("over"); });
}
for (const kind of ["dragleave", "drop"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); byId("drop").classList.remove("over"); });
}
document.addEventListener("drop", (event) => takePhotos(event.dataTransfer.files));

// ---------------------------------------------------------------- history, in this browser alone

function history() {
  try {
    return JSON.parse(localStorage.getItem(STORE) || "[]");
  } catch {
    return [];
  }
}

async function thumbnail() {
  try {
    const picture = await createImageBitmap(state.photo, { resizeWidth: 160 });
    const canvas = document.createElement("canvas");
    canvas.width = picture.width;
    canvas.height = picture.height;
    canvas.getContext("2d").drawImage(picture, 0, 0);
    return canvas.toDataURL("image/jpeg", 0.7);
  } catch {
    return ""; // a format that the browser cannot show
  }
}

async function remember(answer) {
  const entries = [{ picture: await thumbnail(), answer }, ...history()].slice(0, KEPT);
  try {
    localStorage.setItem(STORE, JSON.stringify(entries));
  } catch {
    localStorage.removeItem(STORE); // no room: an empty history is better than a page that fails
  }
  showHistory();
}

function showHistory() {
  const entries = history();
  byId("forget").hidden = !entries.length;
  byId("history").replaceChildren(...entries.map((entry) => {
    const item = element("li");
    const where = entry.answer.located ? `${entry.answer.lat.toFixed(5)}, ${entry.answer.lon.toFixed(5)}` : "not located";
    const button = element("button", entry.picture ? "" : where, { type: "button", title: where, "aria-label": `Earlier photo: ${where}` });
    if (entry.picture) button.append(element("img", "", { src: entry.picture, alt: "" }));
    button.addEventListener("click", () => { showAnswer(entry.answer); showOnMap(entry.answer); byId("answer").focus(); });
    item.append(button);
    return item;
  }));
}

byId("forget").addEventListener("click", () => { localStorage.removeItem(STORE); showHistory(); });

// ---------------------------------------------------------------- start

async function start() {
  showHistory();
  showArea();
  const response = await fetch("v1/indices", { headers: headers() });
  if (!response.ok) {
    byId("options").open = true;
    return;
  }
  state.indices = await response.json();
  byId("index").replaceChildren(...state.indices.map((one) => element("option", `${one.name} (${one.tiles} tiles)`, { value: one.name })));
  const first = state.indices.find((one) => one.name === "default") || state.indices[0];
  byId("index").value = first.name;
  if (boundsOf(first)) map.fitBounds(L.latLngBounds(boundsOf(first)).pad(0.05));
}

byId("key").addEventListener("change", start);
byId("index").addEventListener("change", () => {
  const chosen = state.indices.find((one) => one.name === byId("index").value);
  if (chosen && boundsOf(chosen)) map.fitBounds(boundsOf(chosen));
});
start().catch((error) => showProblem(error.message));
