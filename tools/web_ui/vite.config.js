// The UI's own configuration, and a list of the npm packages' files that what is built was made of, for their licences.
import upstream from './vite.config.upstream.ts';
import { writeFileSync } from 'node:fs';

const STYLE = /\.(css|scss|woff2?)$/;
const files = new Set();

const list = {
	apply: 'build',
	generateBundle(_options, bundle) {
		for (const chunk of Object.values(bundle)) {
			for (const [id, module] of Object.entries(chunk.modules ?? {})) {
				if (module.renderedLength > 0) files.add(id);
			}
		}
		// Stylesheets become one before there are modules of them.
		this.getWatchFiles().filter((file) => STYLE.test(file)).forEach((file) => files.add(file));
		const packaged = [...files].filter((file) => file.includes('/node_modules/'));
		writeFileSync(process.env.LLCUDA_WEB_UI_FILES, JSON.stringify(packaged.sort()));
	},
	name: 'llcuda:list'
};

export default async (environment) => {
	const config = await upstream(environment);
	return { ...config, plugins: [...config.plugins, list] };
};
