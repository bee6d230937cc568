// serve, worker and demo: commands that run until they are told to stop.
import { InvalidArgumentError } from 'commander';
import type { Command } from 'commander';
import closeWithGrace from 'close-with-grace';
import { dataFolderOf } from '../config/data-folder.ts';
import type { Log } from '../connectors/contract/connector.ts';
import { createLog } from '../processes/log.ts';
import type { Announced } from '../processes/serve.ts';
import { isTheirs } from '../processes/their-files.ts';
import { AbideError } from '../suppression/errors.ts';
import { apiUrlOf, reachable, URL_HELP } from './api-client.ts';
import { fail, print } from './output.ts';

const STOP_MS_MAX = 30_000;

const LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'silent'];

export function logOf(otherwise = 'warn'): Log {
  const level = process.env.ABIDE_LOG || otherwise;
  if (!LEVELS.includes(level))
    throw new InvalidArgumentError(`ABIDE_LOG must be one of ${LEVELS.join(', ')}`);
  return createLog(level);
}

/** Where it happened, and nothing that it says: nobody knows whose words those are, and they might name somebody. */
function describeUncaught(error: unknown): object {
  if (!(error instanceof Error)) return { thrown: typeof error };
  const { name, stack = '' } = error;
  const at = stack.split('\n').filter((line) => /^ {4}at /.test(line));
  return { name, ...('code' in error ? { code: error.code } : {}), at };
}

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'] as const;
const UNCAUGHT = ['uncaughtException', 'unhandledRejection'] as const;

/**
 * Stops once, cleanly, on a signal or an error nobody caught. To be called before the start is awaited: a signal in between would
 * leave the database behind that was just started. Ending at the second signal would do so too, and there nearly always is one: a
 * terminal or a supervisor tells the whole process group, and npm passes on what it was told.
 */
export function stopOnSignal(
  starting: Promise<{ stop(): Promise<void> }>,
  /** Ends a start that would take long by itself. */
  hurry: () => void = () => undefined,
): void {
  // The terminal was closed, or it was `npm start | head`: that nobody reads any more is no reason to end.
  for (const stream of [process.stdout, process.stderr])
    stream.removeAllListeners('error').on('error', () => undefined);
  let why: string | undefined;
  let defect: Error | undefined;
  const closing = closeWithGrace(
    {
      delay: STOP_MS_MAX,
      logger: false,
      skip: [...SIGNALS, ...UNCAUGHT],
      onTimeout: () => process.stderr.write(`abide: not stopped within ${STOP_MS_MAX / 1000} s\n`),
    },
    async () => {
      why ??= 'close';
      if (defect === undefined) print(`${why}: stopping; what is under way is finished first`);
      hurry();
      // A start that failed has stopped what it had started, and says why itself.
      const running = await starting.catch(() => undefined);
      await running?.stop();
      print('stopped');
      if (defect !== undefined) throw defect;
    },
  );
  process.off('uncaughtException', fail);
  // The second one does not end it either, or the database would be left behind.
  for (const event of UNCAUGHT) {
    process.on(event, (error: unknown) => {
      if (isTheirs(error)) {
        logOf().error(
          { error: describeUncaught(error) },
          "a connector's file left a failure to nobody: await it, or catch it",
        );
        return;
      }
      // Said whatever the log's level.
      if (defect === undefined)
        process.stderr.write('abide: stopping after an uncaught error, which is a defect\n');
      logOf().error({ error: describeUncaught(error) }, 'uncaught error');
      defect ??= new Error('stopped after an uncaught error', { cause: error });
      if (why !== undefined) return;
      why = event;
      closing.close();
    });
  }
  for (const signal of SIGNALS) {
    process.on(signal, () => {
      if (why !== undefined) return;
      why = signal;
      closing.close();
    });
  }
}

export function addServe(program: Command): void {
  program
    .command('serve')
    .description(
      'Run everything in this process: database (unless one is configured), API, and one worker per store',
    )
    .option('--config <file>', 'abide.yaml (ABIDE_CONFIG)')
    .option('--data <folder>', 'the data folder (ABIDE_DATA; default .abide)')
    .option('--no-workers', 'the API only; workers run elsewhere as `abide worker`')
    .action(async (options: { config?: string; data?: string; workers: boolean }) => {
      const began = performance.now();
      const dataFolder = options.data ?? dataFolderOf(process.env);
      print('abide: starting (data in ' + dataFolder + ')');
      const { serve } = await import('../processes/serve.ts');
      const starting = serve({
        configPath: options.config,
        dataFolder,
        env: process.env,
        workers: options.workers,
        log: logOf(),
        print,
        announce,
        // At once: what is under way would be answered from what the database does not hold any more.
        onCrash: fail,
      });
      stopOnSignal(starting);
      await starting;
      print(`abide: ready after ${((performance.now() - began) / 1000).toFixed(1)} s`);
    });
}

/**
 * Says where it listens, the administrator's key the first time, and a line that works as pasted. Beyond loopback no secret is
 * printed: what a server prints is kept in logs.
 */
function announce({ url: bound, onLoopback, adminKey }: Announced): void {
  const url = reachable(bound);
  print(`abide: listening at ${url}${url === bound ? '' : ' (and at every other address of this machine)'}`);
  const { token, keptIn, isNew } = adminKey ?? {};
  if (token === undefined) {
    if (adminKey !== undefined && keptIn === undefined)
      return print(
        'ABIDE_ADMIN_KEY is revoked or expired: `abide keys token` prints a new one to start with',
      );
    const why =
      keptIn === undefined
        ? "no administrator's key is kept here"
        : `the administrator's key in ${keptIn} is not valid: revoked, expired, or of another database`;
    return print(`${why}; \`abide keys create --client NAME --scope opt_outs:write\` makes a key`);
  }
  if (isNew) print(`\nadministrator's key: ${token}\n  (new, and kept in ${keptIn})`);
  const authorization = onLoopback
    ? `'Authorization: Bearer ${token}'`
    : `"Authorization: Bearer ${keptIn === undefined ? '$ABIDE_ADMIN_KEY' : `$(cat '${keptIn}')`}"`;
  print(`
Record an opt-out (paste this):

  curl -s ${url}/v1/opt-outs -H ${authorization} -H 'Content-Type: application/json' -H 'Prefer: wait=5' -d '{"subject":{"email":"ada@example.com"}}'
`);
}

export function addWorker(program: Command): void {
  program
    .command('worker')
    .description("Carry decisions to one store, reaching nothing of Abide's but the API over HTTP")
    .requiredOption('--store <name>', 'the store, as abide.yaml names it')
    .option('--config <file>', 'abide.yaml with the store (ABIDE_CONFIG)')
    .option('--url <url>', URL_HELP)
    .option(
      '--key <key>',
      "the worker's key (ABIDE_KEY), made by `abide keys create --client crm-worker --store crm`",
    )
    .action(async (options: { store: string; config?: string; url?: string; key?: string }) => {
      const apiKey = options.key ?? process.env.ABIDE_KEY;
      if (!apiKey) {
        throw new AbideError(
          'unauthenticated',
          'A worker needs its key: ABIDE_KEY, made by `abide keys create --store`.',
        );
      }
      const apiUrl = apiUrlOf(options);
      const { runWorker } = await import('../processes/worker.ts');
      const starting = runWorker({
        store: options.store,
        apiUrl,
        apiKey,
        configPath: options.config,
        env: process.env,
        log: logOf(),
        // What was not answered for is read again by the next process, and the ledger gives out the rest.
        onCrash: fail,
      });
      stopOnSignal(starting);
      await starting;
      print(`abide: carrying decisions from ${apiUrl} to ${options.store}`);
    });
}

export function addDemo(program: Command): void {
  program
    .command('demo')
    .description(
      'Half a minute: an opt-out arrives, the store is taken away, the lag shows it, the store comes back',
    )
    .action(async () => {
      const ending = new AbortController();
      for (const signal of SIGNALS)
        process.on(signal, () => {
          ending.abort(new Error(`${signal}: the demo is stopped and its folder removed`));
        });
      // To exit at once, as other commands do then, would leave its database running: `abide demo | head`.
      process.stdout.removeAllListeners('error').on('error', (cause) => {
        ending.abort(
          new Error('The output cannot be written: the demo is stopped and its folder removed', { cause }),
        );
      });
      process.off('uncaughtException', fail).on('uncaughtException', (error) => {
        ending.abort(error);
      });
      const { runDemo } = await import('../processes/demo.ts');
      await runDemo({ print, log: logOf('silent'), signal: ending.signal });
    });
}
