'use strict';

// From counts of votes to what is certified, by the rules of mmcert/certify, in double precision
// as there: which components have a p-value that a procedure accepts. Counts of hits are arrays of
// integers; a cut-off is the smallest number of hits that is enough.
const mmcertStatistics = (() => {
  const SMALLEST = 2 ** -1022;
  const LARGEST_TAU = 1 - 1e-12;
  const LATER = 5;
  const STEPS_DOWN = { bonferroni: false, holm: true, ordered_holm: true };

  // P[Bin(n, p) >= k] for k = 0, ..., n. Each probability is taken relative to the largest one, and
  // they are added from the far end: no term is negative, so no digits are lost.
  function tails(n, p) {
    const odds = p / (1 - p);
    const mode = Math.min(Math.floor((n + 1) * p), n);
    const found = new Float64Array(n + 1);
    found[mode] = 1;
    for (let k = mode; k < n; k += 1) found[k + 1] = found[k] * ((n - k) / (k + 1)) * odds;
    for (let k = mode; k > 0; k -= 1) found[k - 1] = found[k] * (k / (n - k + 1)) / odds;
    for (let k = n; k > 0; k -= 1) found[k - 1] += found[k];
    const whole = found[0];
    return found.map((sum) => sum / whole);
  }

  // binomial.same_draws_p_values, not capped at 1.
  function sameDraws(n, tau, components) {
    const minority = tails(n, 1 - tau);
    const factor = Math.max(components, 1);
    return tails(n, tau).map((tail, hits) => (
      hits > tau * (n - 1) + 1 ? tail + factor * minority[hits] : 1
    ));
  }

  // binomial.p_value_table: the p-value of 0, ..., n hits.
  function pValueTable(n, tau, selection, components) {
    const found = selection === 'holdout' ? tails(n, tau) : sameDraws(n, tau, components);
    return found.map((value) => Math.min(Math.max(value, SMALLEST), 1));
  }

  function bestTau(n, hits, components) {
    const exponent = Math.log(Math.max(components, 1)) / (2 * hits - 1 - n);
    return Math.min(1 / (1 + Math.exp(-exponent)), LARGEST_TAU);
  }

  const balanced = new Map();

  // binomial.balanced_tau: the least threshold at which same draws are tested.
  function balancedTau(n, components, first, later) {
    if (n < 2) return 0.5;
    const key = [n, components, first, later].join();
    if (balanced.has(key)) return balanced.get(key);
    const least = Math.floor((n + 3) / 2);
    const taus = Array.from({ length: n - least + 1 }, (_, i) => bestTau(n, least + i, components));
    const pValue = (hits, tau) => Math.max(sameDraws(n, tau, components)[hits], SMALLEST);
    const smallest = taus.map((tau, i) => pValue(least + i, tau));
    const firstAt = (critical) => {
      const last = smallest.length - 1;
      return smallest[last] <= critical ? smallest.findIndex((p) => p <= critical) : last;
    };
    const [begin, after] = [firstAt(first), firstAt(later)];
    const found = taus[pValue(least + begin, taus[after]) <= first ? after : begin];
    balanced.set(key, found);
    return found;
  }

  // selection.settle, for a selection that is known.
  function testedTau({ tau, alpha, procedure }, selection, n, components) {
    if (selection === 'holdout') return tau;
    const first = alpha / Math.max(components, 1);
    const later = Math.min(first * (STEPS_DOWN[procedure] ? LATER : 1), 1);
    return Math.max(tau, balancedTau(n, components, first, later));
  }

  function attains(table, critical) {
    let cutoff = 0;
    while (cutoff < table.length && table[cutoff] > critical) cutoff += 1;
    return cutoff;
  }

  const sum = (counts) => counts.reduce((before, count) => before + count, 0);

  const bonferroni = (counts, table, alpha) => attains(table, alpha / Math.max(sum(counts), 1));

  function holm(counts, table, alpha) {
    const total = sum(counts);
    let before = 0;
    for (let hits = table.length - 1; hits >= 0; hits -= 1) {
      if (table[hits] > alpha / Math.max(total - before, 1)) return hits + 1;
      before += counts[hits];
    }
    return 0;
  }

  // Ordered Holm's last cut-off of Holm, and the components with one hit less that it rejects.
  function orderedHolm(counts, table, alpha, hits, order) {
    let cutoff = table.length;
    let remaining = sum(counts);
    for (;;) {
      while (cutoff > 0 && remaining > 0 && table[cutoff - 1] <= alpha / remaining) {
        cutoff -= 1;
        remaining -= counts[cutoff];
      }
      if (cutoff === 0 || counts[cutoff - 1] === 0) return { cutoff, extra: [] };
      const atCutoff = cutoff < table.length ? table[cutoff] : 0;
      const step = table[cutoff - 1] - atCutoff;
      if ((remaining - counts[cutoff - 1] + 1) * atCutoff + step > alpha) {
        return { cutoff, extra: [] };
      }
      const extra = [];
      let place = 0;
      let failed = false;
      for (const component of order) {
        if (hits[component] < cutoff) place += 1;
        if (hits[component] !== cutoff - 1) continue;
        const ahead = extra.length;
        failed = (remaining - ahead) * atCutoff + (place - ahead) * step > alpha;
        if (failed) break;
        extra.push(component);
      }
      if (failed) return { cutoff, extra };
      cutoff -= 1;
      remaining -= extra.length;
    }
  }

  // certificate.component_order: descending by rank, equal ones as in memory.
  function componentOrder(components, ranks) {
    const most = ranks.reduce((before, rank) => Math.max(before, rank), 0);
    const starts = new Uint32Array(most + 2);
    for (const rank of ranks) starts[most - rank + 1] += 1;
    for (let place = 1; place < starts.length; place += 1) starts[place] += starts[place - 1];
    const order = new Uint32Array(components);
    ranks.forEach((rank, component) => {
      order[starts[most - rank]] = component;
      starts[most - rank] += 1;
    });
    return order;
  }

  // What is certified of one input. `counts` has how many components have 0, ..., n counted hits.
  // Ordered Holm needs the hits and the order of all components as well. `cutoff` is enough for
  // every component; `rest` is the cut-off of the groups of a hierarchy.
  function certify(settings, { selection, counts, hits = null, order = null }) {
    const [n, components] = [counts.length - 1, sum(counts)];
    const tau = testedTau(settings, selection, n, components);
    const table = pValueTable(n, tau, selection, components);
    const { alpha, procedure } = settings;
    if (procedure !== 'ordered_holm') {
      const cutoff = { holm, bonferroni }[procedure](counts, table, alpha);
      return { cutoff, extra: [], rest: cutoff };
    }
    const found = orderedHolm(counts, table, alpha, hits, order);
    const left = sum(counts.slice(0, found.cutoff)) - found.extra.length;
    return { ...found, rest: attains(table, alpha / Math.max(left, 1)) };
  }

  return { tails, pValueTable, balancedTau, componentOrder, certify };
})();
