"use strict";
// The feature set that a run was trained on, which parts of the run's page need.
const runFeatures = (() => {
  // The feature set, or null and a message in its place. Rejects if it may come back in a moment.
  async function load({ name, fingerprint }, signal) {
    let lost;
    try {
      const features = await api.get(`v1/features/${api.part(name)}`, signal);
      if (features.fingerprint === fingerprint) return { features, lost: null };
      lost = message(`The features “${name}” are not those that this run was trained on`);
    } catch (error) {
      if (!error.status || error.status === 401 || error.status === 503) throw error;
      lost = error.status === 404 ? message(`The features “${name}” of this run were deleted`) : dom.problem(error);
    }
    return { features: null, lost };
  }

  function message(what) {
    const detail =
      "The page leaves out single samples, moves between plans and rejected samples, which need them. Restore the folder of the features from a copy, or run remix decode again with the same shards and settings: the result is the same.";
    return dom.problem({ title: what, detail });
  }

  return { load };
})();
