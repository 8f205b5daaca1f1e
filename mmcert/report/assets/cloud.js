'use strict';

// Clouds in parallel projection: points as discs, the nearest ones drawn last.
const mmcertCloud = (() => {
  const FINEST = 65535;
  const BUCKETS = 1024;

  // The largest distance of a point from the middle.
  function reachOf(points) {
    let reach = 0;
    for (let at = 0; at < points.length; at += 3) {
      const [x, y, z] = [points[at], points[at + 1], points[at + 2]].map((q) => q / FINEST - 0.5);
      reach = Math.max(reach, Math.hypot(x, y, z));
    }
    return reach || 1;
  }

  // Places of the points in a picture of a size, and their depth in [0, 1], the viewer at 1.
  function project({ points, reach }, { azimuth, elevation, zoom }, width, height) {
    const number = points.length / 3;
    const [ca, sa] = [Math.cos(azimuth), Math.sin(azimuth)];
    const [ce, se] = [Math.cos(elevation), Math.sin(elevation)];
    const scale = ((0.47 * Math.min(width, height)) / reach) * zoom;
    const found = {
      x: new Float32Array(number), y: new Float32Array(number), depth: new Float32Array(number),
    };
    for (let at = 0; at < number; at += 1) {
      const x = points[3 * at] / FINEST - 0.5;
      const y = points[3 * at + 1] / FINEST - 0.5;
      const z = points[3 * at + 2] / FINEST - 0.5;
      const away = ca * x + sa * y;
      found.x[at] = width / 2 + scale * (ca * y - sa * x);
      found.y[at] = height / 2 - scale * (ce * z - se * away);
      found.depth[at] = Math.min(Math.max(0.5 + (ce * away + se * z) / reach / 2, 0), 1);
    }
    return found;
  }

  // Far points first.
  function inOrder({ depth }) {
    const bucket = (at) => Math.floor(depth[at] * (BUCKETS - 1));
    const starts = new Uint32Array(BUCKETS + 1);
    for (let at = 0; at < depth.length; at += 1) starts[bucket(at) + 1] += 1;
    for (let place = 1; place <= BUCKETS; place += 1) starts[place] += starts[place - 1];
    const order = new Uint32Array(depth.length);
    for (let at = 0; at < depth.length; at += 1) {
      order[starts[bucket(at)]] = at;
      starts[bucket(at)] += 1;
    }
    return order;
  }

  // Draws the points. `colourOf` gives the colour of a point; null draws a ring in `ring`.
  function draw(canvas, places, { colourOf, ring, zoom, marked }) {
    const context = canvas.getContext('2d');
    const { width, height } = canvas;
    const picture = context.createImageData(width, height);
    const share = (0.3 * Math.min(width, height)) / Math.sqrt(places.x.length);
    const radius = Math.max(2, Math.min(12, Math.round(share * Math.sqrt(zoom))));
    for (const at of inOrder(places)) {
      const colour = colourOf(at);
      const shade = colour === null ? 1 : 0.6 + 0.4 * places.depth[at];
      const [red, green, blue] = colour ?? ring;
      const [left, top] = [Math.round(places.x[at]), Math.round(places.y[at])];
      for (let dy = -radius; dy <= radius; dy += 1) {
        for (let dx = -radius; dx <= radius; dx += 1) {
          const away = Math.hypot(dx, dy);
          const [x, y] = [left + dx, top + dy];
          const inside = x >= 0 && y >= 0 && x < width && y < height;
          if (away > radius || !inside || (colour === null && away < radius - 1.2)) continue;
          const place = 4 * (y * width + x);
          picture.data[place] = red * shade;
          picture.data[place + 1] = green * shade;
          picture.data[place + 2] = blue * shade;
          picture.data[place + 3] = 255;
        }
      }
    }
    context.putImageData(picture, 0, 0);
    if (marked === null) return;
    for (const [style, line] of [['#000', 5], ['#fff', 2]]) {
      context.beginPath();
      context.arc(places.x[marked], places.y[marked], radius + 5, 0, 2 * Math.PI);
      [context.strokeStyle, context.lineWidth] = [style, line];
      context.stroke();
    }
  }

  // The point that is seen at a place: the foremost one that is near; null if none is.
  function pick(places, x, y, reach) {
    let [best, depth] = [null, -1];
    for (let at = 0; at < places.x.length; at += 1) {
      const near = Math.hypot(places.x[at] - x, places.y[at] - y) <= reach;
      if (near && places.depth[at] > depth) [best, depth] = [at, places.depth[at]];
    }
    return best;
  }

  return { reachOf, project, draw, pick };
})();
