// A connector is found by its file: `connector: redis` is connectors/redis, `connector: ./ours.ts` a data team's own.
import { existsSync } from 'node:fs';
import { registerHooks } from 'node:module';
import { extname, isAbsolute, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { Connector } from '../connectors/contract/connector.ts';
import { AbideError } from '../suppression/errors.ts';
import { lookedAt } from './their-connector.ts';
import { noteTheirs } from './their-files.ts';

/** Our own files are TypeScript in a checkout and JavaScript when published. */
const OWN = extname(import.meta.filename);

const LOADED_MS_MAX = 10_000;

type ConnectorModule = { readonly default?: Connector };

/**
 * A file of the user's own gets `abide/connector` and `zod` from us, wherever it lies and whatever is installed there: nothing need
 * be, and the TryLater of another copy would be unknown to us. In TypeScript it is a module, as in its suite, even beside a
 * package.json as `npm init` makes it, with `"type": "commonjs"`.
 */
async function importTheirs(name: string, file: URL): Promise<ConnectorModule> {
  const given = new Map([
    ['abide/connector', new URL(`../connectors/contract/connector${OWN}`, import.meta.url).href],
    ['zod', import.meta.resolve('zod')],
  ]);
  noteTheirs(file);
  const hooks = registerHooks({
    resolve: (specifier, context, next) => {
      const url = context.parentURL?.includes('/node_modules/') ? undefined : given.get(specifier);
      if (url !== undefined) return { url, shortCircuit: true };
      const found = next(specifier, context);
      return found.format === 'commonjs-typescript' ? { ...found, format: 'module-typescript' } : found;
    },
  });
  const late = Promise.withResolvers<never>();
  // While it waits for nothing that ever comes, only this keeps the process from ending without a word.
  const timer = setTimeout(
    () =>
      late.reject(
        new AbideError(
          'CONFIG_INVALID',
          `${name} has not finished loading after ${LOADED_MS_MAX / 1000} s: what does it await at its top level?`,
        ),
      ),
    LOADED_MS_MAX,
  );
  try {
    return (await Promise.race([import(file.href), late.promise])) as ConnectorModule;
  } finally {
    clearTimeout(timer);
    hooks.deregister();
  }
}

/** Loads by name or by path (relative to `folder`, abide.yaml's). Throws CONFIG_INVALID if there is no such connector. */
export async function loadConnector(name: string, folder: string): Promise<Connector> {
  const isPath = name.startsWith('.') || isAbsolute(name);
  if (!isPath && !/^[a-z][a-z0-9-]*$/.test(name)) {
    throw new AbideError(
      'CONFIG_INVALID',
      `${name} is neither the name of a connector nor a path that begins with ./`,
    );
  }
  const url = isPath
    ? pathToFileURL(resolve(folder, name))
    : new URL(`../connectors/${name}${OWN}`, import.meta.url);
  if (!existsSync(fileURLToPath(url))) {
    throw new AbideError(
      'CONFIG_INVALID',
      `There is no connector ${name} (looked for ${isPath ? fileURLToPath(url) : `connectors/${name}`}).`,
    );
  }
  const module = isPath ? await importTheirs(name, url) : ((await import(url.href)) as ConnectorModule);
  if (typeof module.default?.open !== 'function') {
    throw new AbideError('CONFIG_INVALID', `${name} has no default export made by defineConnector().`);
  }
  return isPath ? lookedAt(name, module.default) : module.default;
}
