'use strict';
(() => {
  const page = JSON.parse(document.getElementById('page').textContent);
  const { images, names, abstained, unlabelled } = page;
  const byId = (id) => document.getElementById(id);

  const LAYERS = page.layers.map(({ key, name }) => [key, name]);
  const HATCHED = Object.fromEntries(page.layers.map(({ key, hatched }) => [key, hatched]));
  const NUMBERS = ['radius', 'share', 'attack_moved'];
  const PICTURES = ['image', 'attack_image', 'attack_change'];
  // Of a cloud, these stand where the attack on the smoothed model moved the points to.
  const MOVED = ['attack_moved', 'attack_smoothed_attacked'];
  const CHANNELS = ['red', 'green', 'blue'];
  // A change in steps of 1, none at 128.
  const NO_CHANGE = 128;
  // So much of all changes is within the scale of colours.
  const WITHIN = 0.995;
  const CLAIMS = { exact: 'Enumeration', estimate: 'Estimate' };
  // Viridis, dark to bright: even in brightness, and fit for colour-blind readers.
  const HEAT = [
    [68, 1, 84], [71, 45, 123], [59, 82, 139], [44, 114, 142], [33, 145, 140], [40, 174, 128],
    [94, 201, 98], [173, 220, 48], [253, 231, 37],
  ];
  const KEPT = 4;

  const LOOKING = { azimuth: (40 * Math.PI) / 180, elevation: (25 * Math.PI) / 180 };
  const EMPTY = page.word === 'cloud' ? 'rings' : 'hatched';
  const FAINT = [128, 128, 128];
  const UNTOUCHED = page.word === 'cloud'
    ? 'Point at a point of the cloud, or step through the points with the keys [ and ].'
    : 'Point at a pixel, or move through a view with the arrow keys.';

  const state = {
    index: 0, attack: 0, tile: null, zoom: 1, x: 0, y: 0, alone: null, cursor: null, ...LOOKING,
  };
  const kept = new Map();
  const tiles = mmcertTiles(page.folder);

  function keepTile(index) {
    if (!kept.has(index)) kept.set(index, tiles.load(index));
    if (kept.size > KEPT) {
      const oldest = kept.keys().next().value;
      kept.delete(oldest);
    }
    return kept.get(index);
  }

  // Values in words.

  const digits = (value, count = 4) => String(Number(value.toPrecision(count)));
  // What is claimed must not grow in words.
  const atMost = (value, count = 4) => {
    const near = Number(value.toPrecision(count));
    const step = 10 ** (Math.floor(Math.log10(value)) + 1 - count);
    return digits(near > value ? near - step : near, count);
  };
  const nameOf = (value) => names[value] ?? `class ${value}`;
  const settings = mmcertSettings({ page, tiles, byId, atMost, nameOf, changed: showExplored });

  function votesInWords(tile, at) {
    const { kind, n, most } = tile.votes;
    const hits = tile.maps.hits[at];
    const guess = nameOf(tile.maps.smoothed[at]);
    if (kind === 'values') return `Base model: ${guess}, at ${hits} of ${n} parameters.`;
    if (kind === 'score') {
      return `Smoothed model: ${guess}, pooled score ${hits} of at most ${most}, from ${n} draws.`;
    }
    return `Smoothed model: ${guess}, ${hits} of ${n} draws agree (${digits((100 * hits) / n)} %).`;
  }

  function certifiedInWords(tile, at) {
    const value = tile.maps.certified[at];
    const proven = page.counted ? 'Certified, as one of those of which a few may be wrong' : 'Certified';
    const word = { exact: 'Verified', estimate: 'Estimated, not proven' }[page.kind] ?? proven;
    if (value !== abstained) return `${word}: ${nameOf(value)}.`;
    const group = tile.maps.groups?.[at] ?? abstained;
    return group === abstained ? 'Abstained.' : `${word}: ${nameOf(group)}.`;
  }

  function radiusInWords(tile, at) {
    const radius = tile.radii[tile.maps.radius[at]];
    if (radius <= 0) return 'None.';
    const unit = page.radius ? ` (${page.radius})` : '';
    const bound = tile.bounds?.[tile.maps.radius[at]] ?? 0;
    const why = bound > 0 ? `, for the class has a probability of at least ${atMost(bound)}` : '';
    return `${atMost(radius)}${unit}${why}.`;
  }

  function runnerUpInWords(tile, at) {
    const { runner_up: second, runner_up_hits: hits } = tile.maps;
    const from = `of the ${tile.votes.choosing} draws that chose the class`;
    if (second[at] === unlabelled) return `No runner-up: ${from.replace('of', 'all of')} agree.`;
    return `Runner-up: ${nameOf(second[at])}, ${hits[at]} ${from} (an estimate).`;
  }

  function attackInWords(tile, at) {
    const [base, smoothed, certified] = ['base_attacked', 'smoothed_attacked', 'certified']
      .map((model) => mapOf(tile, `attack_${model}`)?.[at]);
    if (base === undefined) return [];
    const claim = certified === abstained ? 'not certified' : `certified ${nameOf(certified)}`;
    const words = [
      `Smoothed model: ${nameOf(smoothed)}; ${claim} at this radius.`,
      `Base model, attacked by itself: ${nameOf(base)}.`,
    ];
    const [change, moved] = [mapOf(tile, 'attack_change'), mapOf(tile, 'attack_moved')];
    if (change) {
      const parts = CHANNELS.map((name, channel) => {
        const value = (change[3 * at + channel] - NO_CHANGE) * lengthOf(tile);
        return `${name} ${value < 0 ? '-' : '+'}${digits(Math.abs(value), 2)}`;
      });
      words.push(`Changed by ${parts.join(', ')}.`);
    }
    if (moved) words.push(`Moved by ${digits(moved[at] * lengthOf(tile), 2)}.`);
    return words;
  }

  function modelsInWords(tile, at) {
    const { base, label } = tile.maps;
    const words = [];
    if (label) {
      words.push(label[at] === unlabelled ? 'No ground truth.' : `Label: ${nameOf(label[at])}.`);
    }
    if (base && tile.votes.kind !== 'values') words.push(`Base model: ${nameOf(base[at])}.`);
    if (tile.votes) words.push(votesInWords(tile, at));
    if (tile.maps.runner_up) words.push(runnerUpInWords(tile, at));
    return words;
  }

  // What there is to say of a pixel: each claim by itself.
  function describe(tile, x, y) {
    const at = y * tile.width + x;
    const rows = {
      [tile.points ? `Point ${x}` : `Row ${y}, column ${x}`]: modelsInWords(tile, at),
      [CLAIMS[page.kind] ?? 'Certificate']: [certifiedInWords(tile, at)],
      'Joint radius': tile.maps.radius ? [radiusInWords(tile, at)] : [],
      'Other settings': settings.describe(tile, at),
      [`Under attack, ${page.attacks[state.attack]}`]: attackInWords(tile, at),
    };
    byId('readout').replaceChildren(...Object.entries(rows).flatMap(([term, words]) => {
      if (words.length === 0) return [];
      const parts = [['dt', `${term}: `], ['dd', words.join(' ')]];
      return parts.map(([tag, text]) => Object.assign(document.createElement(tag), {
        textContent: text,
      }));
    }));
  }

  // In place of a description.
  function tell(text) {
    byId('readout').replaceChildren(
      Object.assign(document.createElement('dd'), { className: 'alone', textContent: text }),
    );
  }

  // Painting.

  const layersOf = (tile) => LAYERS.filter(([key]) => has(tile, key));

  function has(tile, layer) {
    if (layer === 'image') return Boolean(tile.photo);
    if (layer === 'attack_image') return Boolean(tile.photo && mapOf(tile, 'attack_change'));
    return Boolean(mapOf(tile, layer));
  }

  // The name of what belongs to the chosen set of attacks.
  const attacked = (name) => `attack${state.attack}_${name}`;

  // How long a step of a change is.
  const lengthOf = (tile) => tile.lengths[`attack${state.attack}`];

  function mapOf(tile, layer) {
    if (layer === 'explored') return settings.layer(tile);
    if (layer.startsWith('attack_')) return tile.maps[attacked(layer.slice('attack_'.length))];
    return tile.maps[layer === 'share' ? 'hits' : layer];
  }

  const hasClasses = (layer) => !NUMBERS.includes(layer) && !PICTURES.includes(layer);

  // The change in steps that the scale of colours ends at.
  function endOfScale(change) {
    const counts = new Uint32Array(NO_CHANGE + 1);
    for (const value of change) counts[Math.abs(value - NO_CHANGE)] += 1;
    let [end, within] = [0, counts[0]];
    while (within < WITHIN * change.length) {
      end += 1;
      within += counts[end];
    }
    return Math.max(end, 1);
  }

  // The colours of a picture, red, green and blue of each pixel.
  function pictureOf(tile, layer) {
    const change = mapOf(tile, 'attack_change');
    const picture = new Uint8ClampedArray(change.length);
    if (layer === 'attack_change') {
      const end = endOfScale(change);
      for (let at = 0; at < picture.length; at += 1) {
        picture[at] = 127.5 * (1 + (change[at] - NO_CHANGE) / end);
      }
      return picture;
    }
    const { data } = photoOf(tile);
    const step = 255 * lengthOf(tile);
    for (let at = 0; at < picture.length; at += 1) {
      const pixel = Math.floor(at / 3);
      picture[at] = data[at + pixel] + step * (change[at] - NO_CHANGE);
    }
    return picture;
  }

  function photoOf(tile) {
    const canvas = new OffscreenCanvas(tile.width, tile.height);
    const context = canvas.getContext('2d');
    context.drawImage(tile.photo, 0, 0, tile.width, tile.height);
    return context.getImageData(0, 0, tile.width, tile.height);
  }

  function classMap(tile, layer) {
    if (state.alone === abstained) return tile.maps.groups ?? tile.maps.certified;
    if (state.alone !== null && state.alone !== unlabelled && state.alone >= page.classes) {
      return tile.maps.groups;
    }
    if (state.alone === unlabelled) return tile.maps.label;
    return hasClasses(layer) && mapOf(tile, layer)
      ? mapOf(tile, layer)
      : tile.maps.smoothed ?? tile.maps.certified;
  }

  function heat(share) {
    const place = Math.min(Math.max(share, 0), 1) * (HEAT.length - 1);
    const low = Math.min(Math.floor(place), HEAT.length - 2);
    return HEAT[low].map((value, part) => value + (place - low) * (HEAT[low + 1][part] - value));
  }

  function rangeOf(tile, layer) {
    const highest = { radius: () => Math.max(...tile.radii), attack_moved: () => 255 * lengthOf(tile) };
    return [0, highest[layer]?.() || 1];
  }

  // The colour of each value of a layer; null is hatched.
  function coloursOf(tile, layer) {
    if (layer === 'radius') {
      const [, high] = rangeOf(tile, layer);
      return tile.radii.map((radius) => (radius > 0 ? heat(radius / high) : null));
    }
    if (layer === 'share') {
      const { most } = tile.votes;
      return Array.from({ length: most + 1 }, (_, hits) => heat(hits / most));
    }
    if (layer === 'attack_moved') return Array.from({ length: 256 }, (_, at) => heat(at / 255));
    const found = Array.from({ length: 256 }, (_, value) => page.colours[value] ?? [0, 0, 0]);
    if (HATCHED[layer] !== null) found[HATCHED[layer]] = null;
    return found;
  }

  function paintCloud(pane) {
    const { tile, alone } = state;
    const { layer, cloud } = pane;
    const dense = window.devicePixelRatio || 1;
    cloud.width = Math.round(pane.view.clientWidth * dense);
    cloud.height = Math.round(pane.view.clientHeight * dense);
    const codes = alone === null ? null : classMap(tile, layer) ?? [];
    const values = mapOf(tile, layer);
    const colours = coloursOf(tile, layer);
    tile.reach ??= mmcertCloud.reachOf(tile.points);
    const moved = MOVED.includes(layer) ? tile.attacked[attacked('points')] : null;
    const cloudAt = { points: moved ?? tile.points, reach: tile.reach };
    pane.places = mmcertCloud.project(cloudAt, state, cloud.width, cloud.height);
    mmcertCloud.draw(cloud, pane.places, {
      colourOf: (at) => (codes !== null && codes[at] !== alone ? FAINT : colours[values[at]]),
      ring: matchMedia('(prefers-contrast: more)').matches ? [0, 0, 0] : FAINT,
      zoom: state.zoom,
      marked: state.cursor ? state.cursor[0] : null,
    });
    paintScale(pane);
  }

  function paint(pane) {
    const { tile, alone } = state;
    const { layer } = pane;
    if (tile.points) {
      paintCloud(pane);
      return;
    }
    const context = pane.overlay.getContext('2d');
    const picture = context.createImageData(tile.width, tile.height);
    const codes = alone === null ? null : classMap(tile, layer) ?? [];
    const values = mapOf(tile, layer);
    const shown = PICTURES.includes(layer);
    const pixels = shown && layer !== 'image' ? pictureOf(tile, layer) : null;
    const colours = shown ? null : coloursOf(tile, layer);
    const period = Math.max(6, Math.round(tile.width / 60));
    let at = 0;
    for (let row = 0; row < tile.height; row += 1) {
      for (let column = 0; column < tile.width; column += 1, at += 1) {
        let colour = null;
        let opacity = 255;
        if (codes !== null && codes[at] !== alone) {
          [colour, opacity] = shown ? [[0, 0, 0], 190] : [[128, 128, 128], 60];
        } else if (layer === 'image') continue;
        else if (pixels) colour = pixels.subarray(3 * at, 3 * at + 3);
        else {
          colour = colours[values[at]]
            ?? page.hatch[(row + column) % period < period / 3 ? 0 : 1];
        }
        picture.data[4 * at] = colour[0];
        picture.data[4 * at + 1] = colour[1];
        picture.data[4 * at + 2] = colour[2];
        picture.data[4 * at + 3] = opacity;
      }
    }
    context.putImageData(picture, 0, 0);
    pane.overlay.style.opacity = pane.opacity.value / 100;
    paintScale(pane);
  }

  function paintScale(pane) {
    pane.scale.replaceChildren();
    if (pane.layer === 'runner_up') {
      pane.scale.append(`An estimate; ${EMPTY}: the draws that chose the class gave no other.`);
    }
    if (pane.layer === 'attack_image') {
      const change = mapOf(state.tile, 'attack_change');
      const largest = change.reduce((most, value) => Math.max(most, Math.abs(value - NO_CHANGE)), 0);
      const levels = digits(255 * largest * lengthOf(state.tile), 2);
      pane.scale.append(`No value was changed by more than ${levels} of 255 levels.`);
    }
    if (pane.layer === 'attack_change') {
      const end = endOfScale(mapOf(state.tile, pane.layer)) * lengthOf(state.tile);
      const grey = [[0, 0, 0], [255, 255, 255]];
      pane.scale.append(
        `-${digits(end, 2)}`, bar(grey), `+${digits(end, 2)} in each of red, green and blue, `
        + `x ${digits(0.5 / (end || 1), 2)}; grey: none.`,
      );
    }
    if (!NUMBERS.includes(pane.layer)) return;
    const [low, high] = rangeOf(state.tile, pane.layer);
    pane.scale.append(digits(low), bar(HEAT), atMost(high));
    if (pane.layer === 'attack_moved') pane.scale.append('; in units of the coordinates.');
    else if (pane.layer === 'radius') {
      pane.scale.append(`; ${EMPTY}: none. ${page.radius}. Another claim than the certificate.`);
    } else if (pane.layer === 'share' && state.tile.votes.kind === 'score') {
      pane.scale.append(' of the largest pooled score');
    }
  }

  function bar(colours) {
    const found = document.createElement('span');
    const stops = colours.map((colour) => `rgb(${colour.join(' ')})`).join(', ');
    found.style.background = `linear-gradient(to right, ${stops})`;
    return found;
  }

  // Two views that move together.

  const panes = ['left', 'right'].map((side) => {
    const root = byId('pane').content.cloneNode(true).querySelector('.pane');
    const pane = { root, layer: null };
    for (const part of [
      'view', 'stage', 'photo', 'overlay', 'cursor', 'scale', 'opacity', 'cloud',
    ]) {
      pane[part] = root.querySelector(`.${part}`);
    }
    pane.select = root.querySelector('.layer');
    const keys = page.word === 'cloud'
      ? 'arrow keys turn the cloud, [ and ] step through its points'
      : 'arrow keys move the cursor';
    pane.view.setAttribute('aria-label', `${side} view; ${keys}`);
    pane.select.setAttribute('aria-label', `Layer of the ${side} view`);
    pane.opacity.setAttribute('aria-label', `Opacity of the layer of the ${side} view`);
    byId('panes').append(root);
    return pane;
  });

  const fitOf = (pane) => pane.view.clientWidth / state.tile.width;

  function place() {
    const { tile } = state;
    if (!tile) return;
    if (tile.points) {
      panes.forEach(paintCloud);
      return;
    }
    const margin = (size) => size - size / state.zoom;
    state.x = Math.min(Math.max(state.x, 0), margin(tile.width));
    state.y = Math.min(Math.max(state.y, 0), margin(tile.height));
    for (const pane of panes) {
      const scale = fitOf(pane) * state.zoom;
      pane.stage.style.transform =
        `scale(${scale}) translate(${-state.x}px, ${-state.y}px)`;
      pane.stage.style.setProperty('--scale', scale);
      pane.cursor.style.display = state.cursor ? 'block' : 'none';
      if (state.cursor) {
        pane.cursor.style.left = `${state.cursor[0]}px`;
        pane.cursor.style.top = `${state.cursor[1]}px`;
      }
    }
  }

  function zoom(factor, centre) {
    const { tile } = state;
    if (!tile) return;
    if (tile.points) {
      state.zoom = Math.min(Math.max(state.zoom * factor, 0.5), 40);
      place();
      return;
    }
    const [x, y] = centre ?? [
      state.x + tile.width / state.zoom / 2, state.y + tile.height / state.zoom / 2,
    ];
    const before = state.zoom;
    state.zoom = Math.min(Math.max(before * factor, 1), 40);
    state.x = x - ((x - state.x) * before) / state.zoom;
    state.y = y - ((y - state.y) * before) / state.zoom;
    place();
  }

  function fit() {
    Object.assign(state, { zoom: 1, x: 0, y: 0, ...LOOKING });
    place();
  }

  function turnCloud(across, up) {
    state.azimuth -= across;
    state.elevation = Math.min(Math.max(state.elevation + up, -Math.PI / 2), Math.PI / 2);
    place();
  }

  // Where the pointer is: in pixels of the image, or at a point of the cloud; null at none.
  function underPointer(pane, event) {
    if (!state.tile.points) return pointAt(pane, event);
    const box = pane.view.getBoundingClientRect();
    const dense = pane.cloud.width / pane.view.clientWidth;
    const left = (event.clientX - box.left - pane.view.clientLeft) * dense;
    const top = (event.clientY - box.top - pane.view.clientTop) * dense;
    const at = mmcertCloud.pick(pane.places, left, top, 10 * dense);
    return at === null ? null : [at, 0];
  }

  function pointAt(pane, event) {
    const box = pane.view.getBoundingClientRect();
    const scale = fitOf(pane) * state.zoom;
    const left = box.left + pane.view.clientLeft;
    const top = box.top + pane.view.clientTop;
    return [state.x + (event.clientX - left) / scale, state.y + (event.clientY - top) / scale];
  }

  function moveTo(x, y) {
    const { tile } = state;
    const inside = (value, size) => Math.min(Math.max(Math.floor(value), 0), size - 1);
    state.cursor = [inside(x, tile.width), inside(y, tile.height)];
    describe(tile, ...state.cursor);
    place();
  }

  function follow() {
    // Keeps a cursor that the keys move within what is seen.
    const [x, y] = state.cursor;
    const across = state.tile.width / state.zoom;
    const down = state.tile.height / state.zoom;
    state.x = Math.min(Math.max(state.x, x + 1 - across), x);
    state.y = Math.min(Math.max(state.y, y + 1 - down), y);
    place();
  }

  function isolate(value) {
    state.alone = value === state.alone ? null : value;
    for (const button of byId('legend').children) {
      button.setAttribute('aria-pressed', String(Number(button.dataset.value) === state.alone));
    }
    byId('clear').disabled = state.alone === null;
    panes.forEach(paint);
  }

  function isolateAtCursor(pane) {
    const { tile } = state;
    const [x, y] = state.cursor;
    const named = hasClasses(pane.layer) && mapOf(tile, pane.layer);
    const codes = named ? mapOf(tile, pane.layer) : tile.maps.smoothed ?? tile.maps.certified;
    const value = codes[y * tile.width + x];
    if (pane.layer !== 'runner_up' || value !== unlabelled) isolate(value);
  }

  function setLayer(pane, layer) {
    pane.layer = layer;
    pane.select.value = layer;
    paint(pane);
  }

  function connect(pane) {
    let held = null;
    pane.select.addEventListener('change', () => setLayer(pane, pane.select.value));
    pane.opacity.addEventListener('input', () => {
      pane.overlay.style.opacity = pane.opacity.value / 100;
    });
    pane.view.addEventListener('pointerdown', (event) => {
      if (!state.tile) return;
      held = {
        x: event.clientX, y: event.clientY, at: [state.x, state.y],
        angles: [state.azimuth, state.elevation], moved: false,
      };
      pane.view.setPointerCapture(event.pointerId);
    });
    pane.view.addEventListener('pointermove', (event) => {
      if (!state.tile) return;
      if (held) {
        const [right, down] = [event.clientX - held.x, event.clientY - held.y];
        held.moved ||= Math.hypot(right, down) > 4;
        if (held.moved && state.tile.points) {
          [state.azimuth, state.elevation] = held.angles;
          turnCloud(right / 150, down / 150);
          return;
        }
        if (held.moved) {
          const scale = fitOf(pane) * state.zoom;
          [state.x, state.y] = [held.at[0] - right / scale, held.at[1] - down / scale];
        }
      }
      const place = underPointer(pane, event);
      if (place) moveTo(...place);
    });
    pane.view.addEventListener('pointerup', (event) => {
      const place = held && !held.moved && underPointer(pane, event);
      if (place) {
        moveTo(...place);
        isolateAtCursor(pane);
      }
      held = null;
    });
    pane.view.addEventListener('pointercancel', () => { held = null; });
    pane.view.addEventListener('wheel', (event) => {
      if (document.activeElement !== pane.view && !event.ctrlKey) return;
      event.preventDefault();
      zoom(Math.exp(-event.deltaY / 400), state.tile.points ? null : pointAt(pane, event));
    }, { passive: false });
    pane.view.addEventListener('keydown', (event) => {
      if (!state.tile) return;
      const step = event.shiftKey ? (state.tile.points ? 3 : 10) : 1;
      const move = {
        ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step],
      }[event.key];
      const along = { '[': -1, ']': 1 }[event.key];
      if (state.tile.points && move) {
        turnCloud((-move[0] * Math.PI) / 36, (-move[1] * Math.PI) / 36);
      } else if (state.tile.points && along) {
        const { width } = state.tile;
        moveTo(((state.cursor?.[0] ?? -along) + along + width) % width, 0);
      } else if (move) {
        const { tile } = state;
        const from = state.cursor ?? [tile.width >> 1, tile.height >> 1];
        moveTo(from[0] + move[0], from[1] + move[1]);
        follow();
      } else if (event.key === 'Enter' && state.cursor) isolateAtCursor(pane);
      else return;
      event.preventDefault();
    });
  }

  // Images.

  const rateNames = [
    ['certAcc', `${page.sure} accuracy`], ['mIoU', `${page.sure} mIoU`], ['abstain', 'abstention'],
    ['smoothed_aAcc', 'accuracy of the smoothed model'], ['base_aAcc', 'of the base model'],
  ];

  function showLegend(tile) {
    const seen = new Uint8Array(256);
    for (const [name] of LAYERS) {
      const map = hasClasses(name) ? mapOf(tile, name) : null;
      const other = name === 'runner_up' ? unlabelled : -1;
      for (const value of map ?? []) if (value !== other) seen[value] = 1;
    }
    const found = [...seen.keys()].filter((value) => seen[value]);
    const buttons = found.map((value) => {
      const button = document.createElement('button');
      const box = document.createElement('i');
      const [dark, light] = page.hatch.map((colour) => `rgb(${colour.join(' ')})`);
      button.type = 'button';
      button.dataset.value = value;
      button.setAttribute('aria-pressed', 'false');
      box.style.background = value === abstained
        ? `repeating-linear-gradient(135deg, ${dark} 0 2px, ${light} 2px 5px)`
        : `rgb(${(page.colours[value] ?? [0, 0, 0]).join(' ')})`;
      const name = { [abstained]: page.word === 'cloud' ? 'abstained (rings)' : 'abstained', [unlabelled]: 'no ground truth' }[value];
      button.append(box, name ?? nameOf(value));
      button.addEventListener('click', () => isolate(value));
      return button;
    });
    byId('legend').replaceChildren(...buttons);
  }

  function offerLayers(pane, layer) {
    const layers = layersOf(state.tile);
    pane.select.replaceChildren(...layers.map(([key, name]) => new Option(name, key)));
    pane.layer = layers.some(([key]) => key === layer) ? layer : 'certified';
    pane.select.value = pane.layer;
  }

  // Other settings were tried: the right view shows what they give, as soon as they are others.
  function showExplored() {
    const explored = settings.layer(state.tile) !== null;
    panes.forEach((pane, side) => {
      const replaced = side === 1 && explored && ['certified', 'groups'].includes(pane.layer);
      offerLayers(pane, replaced ? 'explored' : pane.layer);
      paint(pane);
    });
    if (state.cursor) describe(state.tile, ...state.cursor);
  }

  function showTile(tile) {
    const first = state.tile === null;
    const same = !first && state.tile.width === tile.width && state.tile.height === tile.height;
    Object.assign(state, { tile, alone: null, cursor: null });
    if (!same) Object.assign(state, { zoom: 1, x: 0, y: 0 });
    const cloud = tile.points !== null;
    const wanted = first ? [tile.photo ? 'image' : 'label', 'certified'] : [];
    panes.forEach((pane, side) => {
      pane.view.style.aspectRatio = cloud ? '4 / 3' : `${tile.width} / ${tile.height}`;
      pane.root.classList.toggle('of-cloud', cloud);
      if (cloud) {
        offerLayers(pane, wanted[side] ?? pane.layer);
        return;
      }
      for (const canvas of [pane.photo, pane.overlay]) {
        [canvas.width, canvas.height] = [tile.width, tile.height];
      }
      if (tile.photo) {
        pane.photo.getContext('2d').drawImage(tile.photo, 0, 0, tile.width, tile.height);
      }
      offerLayers(pane, wanted[side] ?? pane.layer);
    });
    showLegend(tile);
    isolate(null);
    place();
    showNote(tile);
    tell(UNTOUCHED);
    settings.apply(tile, state.index);
  }

  // What there is not.
  function showNote(tile) {
    const notes = [];
    if (tile.missing) {
      notes.push(tile.points
        ? 'The cloud itself was not found: its points stand in rows, in their order.'
        : 'The image itself is not in this page.');
    }
    if (page.attacks.length > 0 && !mapOf(tile, 'attack_certified')) {
      notes.push(`This ${page.word} was not attacked within ${page.attacks[state.attack]}.`);
    } else if (page.attacks.length > 0 && lengthOf(tile) === undefined) {
      notes.push(`What the attack changed cannot be shown: it was not stored, or is not of the `
        + `size of the ${page.word}.`);
    }
    byId('note').textContent = notes.join(' ');
  }

  // Another set of attacks: what is shown of them.
  function setAttack(number) {
    state.attack = number;
    if (!state.tile) return;
    panes.forEach((pane) => {
      offerLayers(pane, pane.layer);
      paint(pane);
    });
    showNote(state.tile);
    if (state.cursor) describe(state.tile, ...state.cursor);
  }

  async function show(index) {
    state.index = index;
    const image = images[index];
    byId('image-name').textContent = image.name;
    byId('image-rates').textContent = rateNames
      .filter(([key]) => typeof image[key] === 'number')
      .map(([key, name]) => `${name} ${digits(image[key])}`).join(', ');
    byId('thumbnails').querySelectorAll('button').forEach(markCurrent);
    try {
      const tile = await keepTile(index);
      if (state.index === index) showTile(tile);
    } catch (error) {
      kept.delete(index);
      tell(`This ${page.word} cannot be shown: ${error.message}.`);
    }
  }

  const score = (image) => image.certAcc ?? image.certified_share;
  const orders = {
    worst: (one, other) => score(images[one]) - score(images[other]),
    best: (one, other) => score(images[other]) - score(images[one]),
    name: (one, other) => images[one].name.localeCompare(images[other].name),
  };
  const ordered = () => [...images.keys()].sort(orders[byId('sort').value]);

  // Of the list of images, the Tab key reaches the current one; the arrow keys reach the others.
  function markCurrent(button) {
    const current = Number(button.dataset.index) === state.index;
    button.setAttribute('aria-current', String(current));
    button.tabIndex = current ? 0 : -1;
  }

  function walkThumbnails(event) {
    const buttons = [...byId('thumbnails').querySelectorAll('button')];
    const [at, last] = [buttons.indexOf(document.activeElement), buttons.length - 1];
    const to = {
      ArrowLeft: at - 1, ArrowUp: at - 1, ArrowRight: at + 1, ArrowDown: at + 1, Home: 0, End: last,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    buttons[Math.min(Math.max(to, 0), last)].focus();
  }

  function showThumbnails() {
    byId('thumbnails').replaceChildren(...ordered().map((index) => {
      const item = document.createElement('li');
      const button = document.createElement('button');
      const picture = new Image();
      picture.src = images[index].thumbnail;
      picture.alt = '';
      button.type = 'button';
      button.dataset.index = index;
      markCurrent(button);
      button.append(picture, `${images[index].name} ${digits(score(images[index]), 3)}`);
      button.addEventListener('click', () => show(index));
      item.append(button);
      return item;
    }));
  }

  function turn(step) {
    const order = ordered();
    show(order[(order.indexOf(state.index) + step + order.length) % order.length]);
  }

  function showLinked() {
    const index = Number(/^#image-(\d+)$/.exec(location.hash)?.[1] ?? NaN);
    if (!(index in images)) return false;
    show(index);
    byId('image-name').scrollIntoView();
    byId('image-name').focus({ preventScroll: true });
    return true;
  }

  const keys = {
    n: () => turn(1), p: () => turn(-1), 0: fit, Escape: () => isolate(null),
    '+': () => zoom(1.5), '=': () => zoom(1.5), '-': () => zoom(1 / 1.5),
  };
  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !state.tile) return;
    if (['SELECT', 'INPUT'].includes(event.target.tagName)) return;
    const layer = /^[1-9]$/.test(event.key) && layersOf(state.tile)[Number(event.key) - 1];
    if (layer) {
      const pane = panes.find(({ root }) => root.contains(document.activeElement)) ?? panes[0];
      setLayer(pane, layer[0]);
    } else if (event.key in keys) keys[event.key]();
    else return;
    event.preventDefault();
  });

  const clicks = {
    previous: () => turn(-1), next: () => turn(1), 'zoom-in': () => zoom(1.5),
    'zoom-out': () => zoom(1 / 1.5), fit, clear: () => isolate(null),
    theme: () => {
      const root = document.documentElement.style;
      const dark = root.colorScheme
        ? root.colorScheme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
      root.colorScheme = dark ? 'light' : 'dark';
    },
  };
  for (const [id, act] of Object.entries(clicks)) byId(id).addEventListener('click', act);
  byId('sort').addEventListener('change', showThumbnails);
  byId('thumbnails').addEventListener('keydown', walkThumbnails);
  byId('attack-set').replaceChildren(...page.attacks.map((name, at) => new Option(name, at)));
  byId('attack-set').addEventListener('change', ({ target }) => setAttack(Number(target.value)));
  byId('attack-control').hidden = page.attacks.length === 0;
  addEventListener('hashchange', showLinked);
  addEventListener('resize', place);
  panes.forEach(connect);
  document.documentElement.classList.add('scripted');
  if (!showLinked()) show(ordered()[0]);
  showThumbnails();
})();
