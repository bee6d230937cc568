// What each program of the stack gets in its environment. The API gets all of it. A worker's one secret is its API key, apart from
// what its own store needs. Broker, registry and Connect are programs of others and get nothing of ours.
import { readYaml } from '../../config/positioned-yaml.ts';

type Env = NodeJS.ProcessEnv;

const OURS = /^ABIDE_/;
const OF_THE_LEDGER = ['ABIDE_KEYS', 'ABIDE_ADMIN_KEY'];
const URLS_OF_THE_LEDGER = ['database', 'owner_database', 'replication_database'];
/** What a Java program takes from a machine's environment; it need not know the rest. */
const OF_JAVA = /^(PATH|HOME|TMPDIR|TZ|LD_LIBRARY_PATH|JAVA_\w+|JDK_\w+|_JAVA_OPTIONS)$/;

const only = (env: Env, isKept: (name: string) => boolean): Env =>
  Object.fromEntries(Object.entries(env).filter(([name]) => isKept(name)));

/** In the locale C, which services and containers have, Java opens no file whose path is not plain ASCII. */
const LOCALE_OF_JAVA = { LC_ALL: 'C.UTF-8' };

export const environmentOfJava = (env: Env): Env => ({
  ...only(env, (name) => OF_JAVA.test(name)),
  ...LOCALE_OF_JAVA,
});

/** Maven's settings may name variables of the user's own, such as the password of a mirror. */
export const environmentOfMaven = (env: Env): Env => only(env, (name) => !OURS.test(name));

/**
 * Leaves out what the configuration (its text; undefined: the default one) names only for the ledger's database or for other
 * stores. A worker reads neither; a variable that is named elsewhere as well stays.
 */
export function environmentOfWorker(env: Env, store: string, configuration: string | undefined): Env {
  const whole = readYaml(configuration ?? '', ITSELF).value as Record<string, unknown> | null;
  const stores = whole?.['stores'] as Record<string, unknown> | null | undefined;
  const read = Object.entries(whole ?? {}).filter(([field]) => !URLS_OF_THE_LEDGER.includes(field));
  const named = namesIn({ ...Object.fromEntries(read), stores: stores?.[store] });
  const withheld = namesIn(whole).difference(named).union(new Set(OF_THE_LEDGER));
  return only(env, (name) => !withheld.has(name));
}

/** Gives `${NAME}` for every `${NAME}` of a file. */
const ITSELF = new Proxy<Record<string, string>>({}, { get: (_, name) => `\${${String(name)}}` });

const namesIn = (value: unknown): Set<string> =>
  new Set(Array.from(JSON.stringify(value).matchAll(/\$\{(\w+)\}/g), ([, name]) => name!));
