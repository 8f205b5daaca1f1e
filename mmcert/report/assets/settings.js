'use strict';

// Other settings than those that were fixed beforehand, tried on the votes in the page. What they
// show is exploration: nothing here calls it a certificate.
const mmcertSettings = ({ page, tiles, byId, atMost, nameOf, changed }) => {
  const { settings, abstained, unlabelled, classes } = page;
  const { certify, countOf } = mmcertStatistics;
  const offered = !settings.reason;
  const FIRST_K = 100;
  const component = page.word === 'cloud' ? 'point' : 'pixel';
  const now = offered ? { ...settings.fixed, k: settings.fixed.k ?? FIRST_K } : null;
  const SLIDERS = ['tau', 'alpha', 'k'];
  // What ordered Holm needs of an image beside its counts.
  const NEEDED = ['hits', 'counted', 'order1', 'order2', 'smoothed', 'label'];
  const RATES = ['certAcc', 'mIoU', 'abstain'];
  // The page answers its reader at least so often.
  const MILLISECONDS = 30;
  // Maps that are kept for the next settings, as far as they are no more.
  const KEPT_BYTES = 2 ** 26;
  let counts = null;
  let pass = 0;
  let current = null;
  let all = { words: '', rates: null };

  const takesK = ({ procedure }) => procedure === 'kfwer';
  const isFixed = () => ['procedure', 'tau', 'alpha', ...(takesK(now) ? ['k'] : [])]
    .every((key) => now[key] === settings.fixed[key]);
  const computed = () => settings.procedures.includes(now.procedure);
  const ordered = ({ procedure }) => procedure === 'ordered_holm';
  const placeOf = (index) => settings.images.findIndex(({ tile }) => tile === index);
  const inWords = (all) => `tau ${all.tau}, alpha ${all.alpha}, ${all.procedure}`
    + `${takesK(all) ? `, k ${all.k}` : ''}`;

  // The counts of each image: components and pixels by hits, and labelled pixels by class and hits.
  async function readCounts() {
    const found = await tiles.unpackAll(settings.counts);
    let [bins, entries, rows] = [0, 0, 0];
    return settings.images.map((image) => {
      const here = { ...image };
      for (const name of ['components', 'pixels']) {
        here[name] = found[name].subarray(bins, bins + image.n + 1);
      }
      for (const name of ['classes', 'hits', 'found', 'right']) {
        here[name] = found[name].subarray(entries, entries + image.entries);
      }
      here.labelled = found.labelled.subarray(rows, rows + classes);
      bins += image.n + 1;
      entries += image.entries;
      rows += classes;
      return here;
    });
  }

  const ready = offered ? readCounts().then((found) => { counts = found; }) : Promise.resolve();

  const hitsOf = (maps) => maps.counted ?? maps.hits;

  // What orders the components: one map, and among equal ones another, which holds less than 256.
  function ranksOf({ order1: first = null, order2: later }) {
    if (!later) return first;
    const ranks = new Uint32Array(first.length);
    for (let at = 0; at < ranks.length; at += 1) ranks[at] = first[at] * 256 + later[at];
    return ranks;
  }

  // What settings find in an image; ordered Holm needs its maps.
  function find(chosen, image, maps) {
    const { selection, components } = image;
    if (!ordered(chosen)) return certify(chosen, { selection, counts: components });
    const [hits, ranks] = [hitsOf(maps), ranksOf(maps)];
    return certify(chosen, { selection, counts: components, hits, ranks });
  }

  const nothing = () => ({
    pixels: 0, kept: 0, allowance: 0, labelled: new Float64Array(classes), found: new Float64Array(classes),
    right: new Float64Array(classes),
  });

  // Adds what is found in an image to sums over pixels.
  function add(sums, image, { cutoff, extra, allowed }, maps) {
    sums.allowance += allowed * image.width;
    image.pixels.forEach((pixels, hits) => {
      sums.pixels += pixels;
      if (hits >= cutoff) sums.kept += pixels;
    });
    image.labelled.forEach((pixels, label) => { sums.labelled[label] += pixels; });
    image.hits.forEach((hits, at) => {
      if (hits < cutoff) return;
      sums.found[image.classes[at]] += image.found[at];
      sums.right[image.classes[at]] += image.right[at];
    });
    for (const at of extra) {
      sums.kept += 1;
      const label = maps.label?.[at] ?? unlabelled;
      if (label === unlabelled) continue;
      sums.found[maps.smoothed[at]] += 1;
      if (maps.smoothed[at] === label) sums.right[label] += 1;
    }
    return sums;
  }

  // confusion.ConfusionCounts.rates: what may be wrong counts as an abstention, in each rate where
  // it hurts most.
  function rates({ pixels, kept, allowance, labelled, found, right }) {
    const total = (values) => values.reduce((before, value) => before + value, 0);
    const all = total(labelled);
    const seen = [...right.keys()]
      .map((c) => ({ hits: right[c], union: labelled[c] + found[c] - right[c] }))
      .filter(({ union }) => union > 0)
      .sort((one, other) => one.union - other.union);
    let [ious, left] = [0, allowance];
    for (const { hits, union } of seen) {
      const taken = Math.min(left, hits);
      ious += (hits - taken) / union;
      left -= taken;
    }
    return {
      certAcc: all > 0 ? Math.max(total(right) - allowance, 0) / all : null,
      mIoU: seen.length > 0 ? ious / seen.length : null,
      abstain: Math.min(pixels - kept + allowance, pixels) / pixels,
    };
  }

  // The map that the settings give: classes, groups where only they are found, abstentions.
  function mapOf(tile, { cutoff, extra, rest }) {
    const { maps } = tile;
    const hits = hitsOf(maps);
    const levels = [];
    for (let level = 1; maps[`group${level}`]; level += 1) {
      levels.push([maps[`group${level}`], maps[`tested${level}`]]);
    }
    const found = new Uint8Array(hits.length);
    for (let at = 0; at < hits.length; at += 1) {
      if (hits[at] >= cutoff) found[at] = maps.smoothed[at];
      else {
        const level = levels.find(([, tested]) => tested[at] >= rest);
        found[at] = level ? level[0][at] : abstained;
      }
    }
    for (const at of extra) found[at] = maps.smoothed[at];
    return found;
  }

  const read = new Map();
  let readBytes = 0;

  async function mapsOf(index) {
    if (read.has(index)) return read.get(index);
    const maps = await tiles.readMaps(index, NEEDED);
    const bytes = Object.values(maps).reduce((before, map) => before + map.byteLength, 0);
    if (readBytes + bytes <= KEPT_BYTES) {
      readBytes += bytes;
      read.set(index, maps);
    }
    return maps;
  }

  const pause = () => new Promise((resolve) => { setTimeout(resolve); });

  // All images together; null if some are not in the page that would be needed, or if the settings
  // changed meanwhile.
  async function ratesOfAll(chosen) {
    const sums = nothing();
    const progress = byId('settings-progress');
    progress.hidden = true;
    if (!ordered(chosen)) {
      counts.forEach((image) => add(sums, image, find(chosen, image), null));
      return rates(sums);
    }
    if (counts.some(({ tile }) => tile === null)) return null;
    [progress.max, progress.value, progress.hidden] = [counts.length, 0, false];
    let shown = performance.now();
    for (const [place, image] of counts.entries()) {
      const maps = await mapsOf(image.tile);
      if (performance.now() > shown + MILLISECONDS) {
        progress.value = place;
        await pause();
        shown = performance.now();
      }
      if (all.words !== inWords(chosen)) return null;
      add(sums, image, find(chosen, image, maps), maps);
    }
    progress.hidden = true;
    return rates(sums);
  }

  // Another image does not change what holds for all of them.
  function startAll() {
    const words = inWords(now);
    if (all.words !== words) all = { words, rates: null };
    // A file beside the page may be gone.
    all.rates ??= ratesOfAll({ ...now }).catch(() => null);
    return all.rates;
  }

  const cell = (key, column) => byId(`explored-${column}-${key}`);

  function fill(column, found, otherwise) {
    for (const key of RATES) {
      const value = found?.[key];
      cell(key, column).dataset.value = value ?? '';
      cell(key, column).textContent = typeof value === 'number' ? value.toFixed(4) : otherwise;
    }
  }

  function radiusInWords() {
    const radius = settings.radii?.[settings.taus.indexOf(now.tau)] ?? null;
    if (radius === null) return '';
    return ` At this tau the radius is ${atMost(radius)}${page.radius ? ` (${page.radius})` : ''}.`;
  }

  function say(tile) {
    const status = byId('settings-status');
    const mine = tile.explored?.map;
    if (!isFixed()) {
      status.textContent = `Exploration, no promise: ${inWords(now)}.${radiusInWords()}`
        + ` Fixed beforehand: ${inWords(settings.fixed)}.`;
    } else if (!mine) {
      status.textContent = `Fixed beforehand: ${inWords(settings.fixed)}.`;
    } else {
      const given = tile.maps.groups ?? tile.maps.certified;
      const differ = mine.reduce((sum, value, at) => sum + (value !== given[at]), 0);
      status.textContent = `Fixed beforehand: ${inWords(settings.fixed)}. ` + (differ
        ? `Computed again in this browser, ${differ} ${component}s differ from the certificate: do not `
          + 'rely on the figures for other settings.'
        : `Computed again in this browser from the votes: every ${component} as in the certificate.`);
    }
    document.documentElement.classList.toggle('exploring', !isFixed());
  }

  // A share is a number of the components of the image that is shown.
  function countInWords() {
    if (now.k >= 1) return String(now.k);
    const { components } = counts[placeOf(current[1])];
    const total = components.reduce((before, count) => before + count, 0);
    return `${now.k}: ${countOf(now, total)} here`;
  }

  function showControls() {
    for (const key of SLIDERS) {
      const value = key === 'k' ? countInWords() : String(now[key]);
      byId(key).value = settings[`${key}s`].indexOf(now[key]);
      byId(key).setAttribute('aria-valuetext', value);
      byId(`${key}-value`).textContent = value;
    }
    byId('procedure').value = now.procedure;
    byId('k-control').hidden = !takesK(now);
    byId('k-note').hidden = !takesK(now);
    byId('fixed').disabled = isFixed();
  }

  // Applies the settings to an image, and shows what they give.
  async function apply(tile, index) {
    if (!offered) return;
    pass += 1;
    const mine = pass;
    current = [tile, index];
    byId('settings-table').setAttribute('aria-busy', 'true');
    await ready;
    if (mine !== pass) return;
    showControls();
    const place = placeOf(index);
    const image = counts[place];
    tile.explored = null;
    fill('this-fixed', image.rates, 'none');
    if (computed()) {
      const found = find(now, image, tile.maps);
      tile.explored = { map: mapOf(tile, found), fixed: isFixed() };
      fill('this', rates(add(nothing(), image, found, tile.maps)), 'none');
    } else fill('this', null, 'not in the page');
    say(tile);
    changed();
    fill('all', null, computed() ? '…' : 'not in the page');
    const together = computed() ? await startAll() : null;
    if (mine !== pass) return;
    fill('all', together, together ? 'none' : 'not in the page');
    byId('settings-table').setAttribute('aria-busy', 'false');
  }

  function set(key, value) {
    now[key] = value;
    if (current) apply(...current);
  }

  function connect() {
    const note = byId('settings-note');
    byId('settings-controls').hidden = !offered;
    if (!offered) {
      note.textContent = `No other settings can be tried here: ${settings.reason}.`;
      return;
    }
    for (const key of SLIDERS) {
      byId(key).max = settings[`${key}s`].length - 1;
      byId(key).addEventListener('input', (event) => {
        set(key, settings[`${key}s`][Number(event.target.value)]);
      });
    }
    const names = [...new Set([settings.fixed.procedure, ...settings.procedures])];
    byId('procedure').replaceChildren(...names.map((name) => new Option(name)));
    byId('procedure').addEventListener('change', (event) => set('procedure', event.target.value));
    byId('fixed').addEventListener('click', () => {
      Object.assign(now, settings.fixed, { k: settings.fixed.k ?? now.k });
      if (current) apply(...current);
    });
    fill('all-fixed', settings.fixed.rates, 'none');
  }

  // What the settings say of a pixel; nothing where they are those of the certificate.
  function describe(tile, at) {
    if (!tile.explored || tile.explored.fixed) return [];
    const value = tile.explored.map[at];
    return [value === abstained ? 'Abstention.' : `No promise: ${nameOf(value)}.`];
  }

  // The map to paint; null where it is that of the certificate.
  const layer = (tile) => (tile.explored && !tile.explored.fixed ? tile.explored.map : null);

  connect();
  return { apply, describe, layer };
};
