// A map of a report: tiles grey, photos where they were taken by the size of their error, lines to where they were located.
"use strict";
(() => {
  const facts = JSON.parse(document.getElementById("map-facts").textContent);
  const map = L.map("map", { preferCanvas: true, attributionControl: false, maxZoom: 22, zoomSnap: 0.25 });
  L.control.scale({ imperial: false }).addTo(map);
  const bounds = L.latLngBounds([]);
  if (facts.picture) {
    L.imageOverlay(facts.picture.source, facts.picture.bounds).addTo(map);
  }
  for (const place of facts.gallery) {
    L.circleMarker(place, { radius: 2, stroke: false, fillColor: "#999", fillOpacity: 0.6, interactive: false }).addTo(map);
  }
  const colourOf = (error) => (error === null ? facts.unlocated : facts.classes.find((one) => error <= one.most_m).colour);
  for (const photo of facts.photos) {
    if (photo.to) bounds.extend(photo.to);
    if (photo.to) L.polyline([photo.at, photo.to], { color: "#c33", weight: 1.5, opacity: 0.7, interactive: false }).addTo(map);
  }
  for (const photo of facts.photos) {
    const style = { radius: 5, color: "#fff", weight: 1, fillColor: colourOf(photo.error_m), fillOpacity: 1 };
    const words = photo.error_m === null ? "not located" : `${photo.error_m} m off`;
    L.circleMarker(photo.at, style).bindTooltip(photo.name ? `${photo.name}: ${words}` : words).addTo(map);
    bounds.extend(photo.at);
  }
  map.fitBounds(bounds.pad(0.03));
})();
