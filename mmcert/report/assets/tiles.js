'use strict';

// Inputs: within the page, or scripts in a folder beside it.
const mmcertTiles = (folder) => {
  const waiting = new Map();

  window.mmcertTile = (index, tile) => {
    waiting.get(index)?.forEach((resolve) => resolve(tile));
    waiting.delete(index);
  };

  function fetchTile(index) {
    if (folder === null) {
      return Promise.resolve(JSON.parse(document.getElementById(`tile-${index}`).textContent));
    }
    return new Promise((resolve, reject) => {
      waiting.set(index, [...(waiting.get(index) ?? []), resolve]);
      const script = document.createElement('script');
      script.src = `${encodeURIComponent(folder)}/${index}.js`;
      script.onload = () => script.remove();
      script.onerror = () => {
        script.remove();
        waiting.delete(index);
        reject(new Error(`${folder}/${index}.js is not there: keep that folder beside the page`));
      };
      document.head.append(script);
    });
  }

  async function unpack(packed) {
    const text = atob(packed.data);
    const bytes = new Uint8Array(text.length);
    for (let at = 0; at < text.length; at += 1) bytes[at] = text.charCodeAt(at);
    const { readable, writable } = new DecompressionStream('deflate');
    const writer = writable.getWriter();
    writer.write(bytes);
    writer.close();
    const buffer = await new Response(readable).arrayBuffer();
    return new { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array }[packed.type](buffer);
  }

  async function unpackAll(packed) {
    return Object.fromEntries(await Promise.all(
      Object.entries(packed).map(async ([name, one]) => [name, await unpack(one)]),
    ));
  }

  async function photoOf(tile) {
    if (!tile.image) return null;
    const photo = new Image();
    photo.src = tile.image;
    await photo.decode();
    return photo;
  }

  // Some of the maps alone, as far as they are there.
  async function readMaps(index, names) {
    const packed = Object.entries((await fetchTile(index)).maps);
    return unpackAll(Object.fromEntries(packed.filter(([name]) => names.includes(name))));
  }

  async function load(index) {
    const tile = await fetchTile(index);
    // A cloud counts as one row of points.
    const [height, width] = tile.points ? [1, tile.shape[0]] : tile.shape;
    const points = tile.points ? await unpack(tile.points) : null;
    const maps = await unpackAll(tile.maps);
    const attacked = await unpackAll(tile.attacked ?? {});
    return { ...tile, height, width, points, maps, attacked, photo: await photoOf(tile) };
  }

  return { load, readMaps, unpackAll };
};
