"""The plain page at the root of the service: what it is and a form to try it; no scripts, nothing from elsewhere."""

from __future__ import annotations

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>geoloc</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 3rem auto; padding: 0 1rem; color: #222 }
label { display: block; margin: .6rem 0 } input, select { font: inherit; width: 12rem }
code { background: #eee; padding: .1rem .3rem }
</style>
</head>
<body>
<h1>geoloc</h1>
<p>Send a photo; the answer says where it was taken, how sure that is, and which aerial tiles it matched.</p>
<form action="v1/localize" method="post" enctype="multipart/form-data">
<label>Photo (JPEG, PNG, WebP)
<input type="file" name="image" accept="image/jpeg,image/png,image/webp" required></label>
<label>Kind <select name="view"><option value="">guess</option><option>panorama</option><option>street</option>
<option>drone</option></select></label>
<label>Heading, degrees from north <input name="heading_deg" inputmode="decimal" placeholder="unknown"></label>
<label>Field of view, degrees <input name="fov_deg" inputmode="decimal"></label>
<label>Ground along the shorter side, metres (drone) <input name="extent_m" inputmode="decimal"></label>
<label>Search around: latitude <input name="lat" inputmode="decimal"></label>
<label>longitude <input name="lon" inputmode="decimal"></label>
<label>radius, metres <input name="radius_m" inputmode="decimal"></label>
<button>Locate</button>
</form>
<p>The same from a shell: <code>curl -F image=@photo.jpg -F heading_deg=0 URL/v1/localize</code>.
The interface is described in <a href="openapi.json">openapi.json</a>; <a href="healthz">healthz</a> says what is
served.</p>
</body>
</html>
"""
