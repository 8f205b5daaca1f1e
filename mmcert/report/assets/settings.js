'use strict';

// Other settings than those that were fixed beforehand, tried on the votes in the page. What they
// show is exploration: nothing here calls it a certificate.
const mmcertSettings = ({ page, tiles, byId, digits, nameOf, changed }) => {
  const { settings, abstained, unlabelled, classes } = page;
  const { certify, componentOrder } = mmcertStatistics;
  const offered = !settings.reason;
  const component = page.word === 'cloud' ? 'point' : 'pixel';
  const now = offered ? { ...settings.fixed } : null;
  const KEYS = ['tau', 'alpha', 'procedure'];
  // What ordered Holm needs of an image beside its counts.
  const NEEDED = ['hits', 'counted', 'order1', 'order2', 'smoothed', 'label'];
  const RATES = ['certAcc', 'mIoU', 'abstain'];
  let counts = null;
  let pass = 0;
  let current = null;

  const isFixed = () => KEYS.every((key) => now[key] === settings.fixed[key]);
  const computed = () => settings.procedures.includes(now.procedure);
  const ordered = () => now.procedure === 'ordered_holm';
  const placeOf = (index) => settings.images.findIndex(({ tile }) => tile === index);
  const inWords = ({ tau, alpha, procedure }) => `tau ${tau}, alpha ${alpha}, ${procedure}`;

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

  // Ranks of components by one map, equal ones by another, which holds less than 256.
  const ranksOf = ({ order1: first, order2: later }) => (
    later ? Uint32Array.from(first, (rank, at) => rank * 256 + later[at]) : first
  );

  // What the settings find in an image; ordered Holm needs its maps.
  function find(image, maps) {
    const { selection, components } = image;
    if (!ordered()) return certify(now, { selection, counts: components });
    const hits = hitsOf(maps);
    const order = maps.order1
      ? componentOrder(hits.length, ranksOf(maps))
      : Uint32Array.from(hits.keys());
    return certify(now, { selection, counts: components, hits, order });
  }

  const nothing = () => ({
    pixels: 0, kept: 0, labelled: new Float64Array(classes), found: new Float64Array(classes),
    right: new Float64Array(classes),
  });

  // Adds what is found in an image to sums over pixels.
  function add(sums, image, { cutoff, extra }, maps) {
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

  function rates({ pixels, kept, labelled, found, right }) {
    const total = (values) => values.reduce((before, value) => before + value, 0);
    const unions = [...right.keys()].map((c) => labelled[c] + found[c] - right[c]);
    const shares = [...right.keys()].filter((c) => unions[c] > 0).map((c) => right[c] / unions[c]);
    return {
      certAcc: total(labelled) > 0 ? total(right) / total(labelled) : null,
      mIoU: shares.length > 0 ? total(shares) / shares.length : null,
      abstain: (pixels - kept) / pixels,
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

  // All images together; null if some are not in the page that would be needed.
  async function ratesOfAll(mine) {
    const sums = nothing();
    if (!ordered()) {
      counts.forEach((image) => add(sums, image, find(image), null));
      return rates(sums);
    }
    if (counts.some(({ tile }) => tile === null)) return null;
    for (const [place, image] of counts.entries()) {
      const maps = await tiles.readMaps(image.tile, NEEDED);
      if (mine !== pass) return null;
      add(sums, image, find(image, maps), maps);
      cell('certAcc', 'all').textContent = `${place + 1} of ${counts.length} ${page.word}s`;
    }
    return rates(sums);
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
    return ` At this tau the radius is ${digits(radius)}${page.radius ? ` (${page.radius})` : ''}.`;
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

  function showControls() {
    for (const key of ['tau', 'alpha']) {
      const value = String(now[key]);
      byId(key).value = settings[`${key}s`].indexOf(now[key]);
      byId(key).setAttribute('aria-valuetext', value);
      byId(`${key}-value`).textContent = value;
    }
    byId('procedure').value = now.procedure;
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
      const found = find(image, tile.maps);
      tile.explored = { map: mapOf(tile, found), fixed: isFixed() };
      fill('this', rates(add(nothing(), image, found, tile.maps)), 'none');
    } else fill('this', null, 'not in the page');
    say(tile);
    changed();
    fill('all', null, computed() ? '…' : 'not in the page');
    const all = computed() ? await ratesOfAll(mine) : null;
    if (mine !== pass) return;
    fill('all', all, all ? 'none' : 'not in the page');
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
    for (const key of ['tau', 'alpha']) {
      byId(key).max = settings[`${key}s`].length - 1;
      byId(key).addEventListener('input', (event) => {
        set(key, settings[`${key}s`][Number(event.target.value)]);
      });
    }
    const names = [...new Set([settings.fixed.procedure, ...settings.procedures])];
    byId('procedure').replaceChildren(...names.map((name) => new Option(name)));
    byId('procedure').addEventListener('change', (event) => set('procedure', event.target.value));
    byId('fixed').addEventListener('click', () => {
      Object.assign(now, settings.fixed);
      if (current) apply(...current);
    });
    fill('all-fixed', settings.fixed.rates, 'none');
  }

  // What the settings say of a pixel; nothing where they are those of the certificate.
  function describe(tile, at) {
    if (!tile.explored || tile.explored.fixed) return '';
    const value = tile.explored.map[at];
    return value === abstained
      ? 'Other settings: abstention.' : `Other settings, no promise: ${nameOf(value)}.`;
  }

  // The map to paint; null where it is that of the certificate.
  const layer = (tile) => (tile.explored && !tile.explored.fixed ? tile.explored.map : null);

  connect();
  return { apply, describe, layer };
};
