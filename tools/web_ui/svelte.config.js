// The UI's own configuration, with a version that does not hold the time of the build.
import upstream from './svelte.config.upstream.js';

export default {
	...upstream,
	kit: { ...upstream.kit, version: { name: process.env.LLAMA_UI_VERSION } }
};
