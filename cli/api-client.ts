// The commands that ask the API as any client would.
import { readFileSync } from 'node:fs';
import { InvalidArgumentError } from 'commander';
import type { Command } from 'commander';
import { AbideProblem, createAbide } from '../client/client.ts';
import type { Abide } from '../client/client.ts';
import { dataFolderOf } from '../config/data-folder.ts';
import { adminKeyFile } from '../processes/kept-file.ts';
import { environmentOf } from './installation.ts';
import type { Installation } from './installation.ts';

export type ApiOptions = Installation & { url?: string; key?: string };

export const URL_HELP =
  'where the API is (ABIDE_URL; default where `listen` in abide.yaml lets it listen, at PORT, or http://127.0.0.1:8080)';

export const withApi = (command: Command): Command =>
  command
    .option('--url <url>', URL_HELP)
    .option('--key <key>', "an API key (ABIDE_KEY; default the data folder's admin.key)")
    .option('--data <folder>', 'the data folder (ABIDE_DATA; default .abide)');

/** Asks the API; a failure is an error in words for people. */
export type Ask = <T>(question: (abide: Abide) => Promise<T>) => Promise<T>;

/** Somebody waits and can type the command again: a hiccup is bridged, no more. */
type Patience = { readonly triesMax: number; readonly tryTimeoutMs: number; readonly timeoutMs: number };
const PATIENCE: Patience = { triesMax: 3, tryTimeoutMs: 40_000, timeoutMs: 60_000 };

/** After a longer wait somebody would think that nothing happens. */
const SLOW_MS = 5_000;

/** Somebody waits for something that goes on by itself: a restart is bridged as well. */
export const LONG_PATIENCE = { triesMax: 100, tryTimeoutMs: 40_000, timeoutMs: 60_000 };

/**
 * `--url` or ABIDE_URL, else this machine at PORT, or where the configuration lets it listen. Throws InvalidArgumentError if that
 * is no URL.
 */
export function apiUrlOf(options: Pick<ApiOptions, 'url' | 'config'>): string {
  const { ABIDE_URL, ABIDE_CONFIG, PORT } = environmentOf(options);
  const { host, port } = listensAt(ABIDE_CONFIG || 'abide.yaml');
  const url = options.url ?? (ABIDE_URL || reachable(`http://${host}:${PORT || port}`));
  if (/^https?:$/.test(URL.parse(url)?.protocol ?? '')) return url;
  throw new InvalidArgumentError(
    `${url} is not the URL of an API: give one such as http://127.0.0.1:8080 by --url or ABIDE_URL, or a number as PORT.`,
  );
}

/** A server that listens on every address of this machine answers at the machine's own. */
export const reachable = (url: string): string =>
  url.replace('//0.0.0.0:', '//127.0.0.1:').replace('//[::]:', '//[::1]:');

/** Looks for this and reads nothing else of the file: whatever is wrong with it, asking how far the stores are works. */
function listensAt(file: string): { host: string; port: string } {
  try {
    const [, , host, port] =
      /^listen:\s*(["']?)([\w.-]+|\[[\da-f:.]+\]):([1-9]\d{0,4})\1\s*(?:#.*)?$/im.exec(
        readFileSync(file, 'utf8'),
      ) ?? [];
    if (host !== undefined && port !== undefined) return { host, port };
  } catch {
    // There need not be a file.
  }
  return { host: '127.0.0.1', port: '8080' };
}

/**
 * Asks at apiUrlOf(), with `--key` or ABIDE_KEY, or the administrator's key of the data folder. `heldSeconds`: for how long the API
 * was asked to hold its answer. `say`: what a command has to say of a problem that has a meaning of its own there.
 */
export function createAsk(
  options: ApiOptions,
  {
    patience = PATIENCE,
    heldSeconds = 0,
    say = () => undefined,
  }: {
    readonly patience?: Patience;
    readonly heldSeconds?: number;
    readonly say?: (problem: AbideProblem) => Error | undefined;
  } = {},
): Ask {
  const url = apiUrlOf(options);
  const abide = createAbide({
    url,
    key: options.key ?? (process.env.ABIDE_KEY || keptAdminKey(options)),
    ...patience,
  });
  return async (question) => {
    const slow = setTimeout(
      () => {
        if (patience === PATIENCE)
          process.stderr.write(`abide: ${url} does not answer yet; waiting for it (Ctrl-C ends that).\n`);
      },
      SLOW_MS + heldSeconds * 1000,
    );
    try {
      return await question(abide);
    } catch (error) {
      throw error instanceof AbideProblem ? (say(error) ?? inWords(error, url)) : error;
    } finally {
      clearTimeout(slow);
    }
  };
}

export const unlessNotThere = <T>(asked: Promise<T>): Promise<T | undefined> =>
  asked.catch((error: unknown) => {
    if (error instanceof AbideProblem && error.code === 'not-found') return undefined;
    throw error;
  });

/** A command that runs until it is interrupted asks again. */
export class NobodyAnswersError extends Error {}

function inWords(problem: AbideProblem, url: string): Error {
  const { code, status, message, errors } = problem;
  if (code === 'no-answer')
    return new NobodyAnswersError(
      `Nobody answers at ${url}: is \`npm start\` running? Name where it listens with --url, ABIDE_URL or PORT.`,
      // Its code says why: refused, no such host, …
      { cause: problem.cause },
    );
  if (code === 'unexpected-answer')
    return new Error(
      `What answers at ${url} is not Abide: name where Abide listens with --url or ABIDE_URL.`,
    );
  const why =
    status === 401
      ? 'it does not know the key: is it of another Abide, expired or revoked?'
      : status === 403
        ? `${message} \`abide keys create --client NAME --scope …\` makes a key that has it.`
        : message;
  const faults = errors.map(({ pointer, detail }) => `\n  ${pointer}: ${detail}`);
  return new Error(`The API answered ${status ?? 'nothing'}: ${why}${faults.join('')}`);
}

function keptAdminKey(options: Installation): string {
  const file = adminKeyFile(dataFolderOf(environmentOf(options)));
  try {
    return readFileSync(file, 'utf8').trim();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new Error(
      code === 'ENOENT'
        ? `No key: there is no ${file} (--data or ABIDE_DATA names another data folder); set ABIDE_KEY or pass --key.`
        : `No key: ${file} cannot be read (${code}); run this as the user who runs Abide, set ABIDE_KEY or pass --key.`,
      { cause: error },
    );
  }
}
