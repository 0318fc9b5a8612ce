// Several photos of one way: the route that they were taken along, each photo answered by all of them.
"use strict";

const AT_ONCE = 32; // photos of a request at most, and their bytes
const BYTES_AT_ONCE = 48 * 2 ** 20;
const route = { photos: [], positions: [], state: null };

function goesOn() {
  return route.state !== null && byId("go-on").checked;
}

function takeRoute(photos) {
  const sorted = photos.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
  if (goesOn()) {
    route.photos.push(...sorted);
  } else {
    endRoute();
    route.photos = sorted;
  }
  byId("preview").hidden = true;
  byId("invite").textContent = `${route.photos.length} photos of one route, in the order of their names`;
  showStrip();
  locateRoute();
}

function endRoute() {
  for (const picture of byId("strip").querySelectorAll("img")) URL.revokeObjectURL(picture.src);
  byId("strip").replaceChildren();
  byId("strip").hidden = true;
  byId("route").hidden = true;
  Object.assign(route, { photos: [], positions: [], state: null });
}

function showStrip() {
  const strip = byId("strip");
  strip.hidden = false;
  for (let number = strip.children.length; number < route.photos.length; number += 1) {
    const item = element("li");
    item.append(element("img", "", { src: URL.createObjectURL(route.photos[number]), alt: `Photo ${number + 1}` }));
    strip.append(item);
  }
}

// Photos that one request takes: those that are not located yet, within the limits of a request.
function nextPhotos() {
  const waiting = route.photos.slice(route.positions.length);
  let bytes = 0;
  const most = waiting.findIndex((photo, number) => {
    bytes += photo.size;
    return number === AT_ONCE || (number > 0 && bytes > BYTES_AT_ONCE);
  });
  return most < 0 ? waiting : waiting.slice(0, most);
}

async function askRoute(photos) {
  const going = route.state !== null;
  const form = formOf(photos, going ? KNOWN : { ...KNOWN, index: "index" });
  const moved = Number(byId("moved").value);
  if (moved > 0) {
    const steps = photos.map((_, number) => (going || number ? { moved_m: moved } : {}));
    form.append("steps", JSON.stringify(steps));
  }
  if (going) form.append("state", route.state);
  else addArea(form);
  return post(going ? "v1/routes/continue" : "v1/routes", form);
}

async function locateRoute() {
  if (route.positions.length === route.photos.length) beginAgain();
  await working(async () => {
    let answer = null;
    try {
      for (let photos = nextPhotos(); photos.length; photos = nextPhotos()) {
        answer = await askRoute(photos);
        route.state = answer.state;
        route.positions.push(...answer.positions);
      }
    } catch (error) {
      beginAgain(); // the state may be of a snapshot that is served no longer
      throw error;
    }
    showRoute(answer);
    showRouteOnMap();
    byId("route").hidden = false;
  });
}

function beginAgain() {
  Object.assign(route, { positions: [], state: null });
}

function placeInWords(position) {
  if (position.lat === null) return "off the map";
  const place = `${position.lat.toFixed(6)}, ${position.lon.toFixed(6)}`;
  return position.radius_m === null ? `about ${place}` : `${place}, within ${Math.max(1, Math.round(position.radius_m))} m`;
}

function showRoute(answer) {
  const card = element("div", "", { class: `card ${answer.located ? "good" : "unsure"}` });
  card.append(element("h2", answer.located ? "The last photo was taken here" : "The route does not yet say where it ends"));
  card.append(element("p", placeInWords(route.positions[route.positions.length - 1])));
  card.append(element("p", "Circles hold 90 % of the probability that the route's filter gives, which is no calibrated promise.", { class: "quiet" }));
  const list = element("ol", "", { class: "places", "aria-label": "Places of the photos, in their order" });
  route.positions.forEach((position, number) => {
    const item = element("li");
    const button = element("button", `${number + 1}. ${placeInWords(position)}`, { type: "button" });
    button.addEventListener("click", () => { if (position.lat !== null) map.setView([position.lat, position.lon], 19); });
    item.append(button);
    list.append(item);
  });
  card.append(list);
  const steps = Object.entries(answer.timings_ms).map(([name, value]) => `${name} ${Math.round(value)} ms`).join(", ");
  card.append(element("p", `${steps}. Snapshot ${answer.snapshot_id.slice(0, 8)}, model ${answer.model_id}.`, { class: "quiet" }));
  byId("answer").replaceChildren(card);
}

function showRouteOnMap() {
  shown.clearLayers();
  const placed = route.positions.map((position, number) => ({ ...position, number })).filter((one) => one.lat !== null);
  if (!placed.length) return;
  const path = placed.map((one) => [one.lat, one.lon]);
  L.polyline(path, { color: "#fff", weight: 8, opacity: 0.9, interactive: false }).addTo(shown);
  L.polyline(path, { color: "#d4271e", weight: 4, interactive: false }).addTo(shown);
  for (const one of placed) {
    const last = one.number === route.positions.length - 1;
    if (one.radius_m) {
      L.circle([one.lat, one.lon], { radius: one.radius_m, color: "#d4271e", weight: last ? 2 : 1, fillOpacity: 0.05, interactive: false }).addTo(shown);
    }
    const words = `Photo ${one.number + 1}: ${placeInWords(one)}`;
    const icon = L.divIcon({ className: last ? "pin last" : "pin", html: String(one.number + 1), iconSize: [24, 24] });
    L.marker([one.lat, one.lon], { icon, title: words, alt: words, keyboard: false, zIndexOffset: last ? 1000 : 0 }).addTo(shown);
  }
  map.fitBounds(L.latLngBounds(path).pad(0.3), { maxZoom: 18 });
}
