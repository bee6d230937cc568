import { Command } from 'commander';

/** Adds a command to `abide`. */
type Add = (program: Command) => void;

/** In the order of `abide --help`. Each loads only what it needs: `abide check` runs in scripts, and need not load a database. */
const COMMANDS: Readonly<Record<string, () => Promise<Add>>> = {
  serve: async () => (await import('./running-commands.ts')).addServe,
  worker: async () => (await import('./running-commands.ts')).addWorker,
  stack: async () => (await import('./stack-commands.ts')).addStack,
  demo: async () => (await import('./running-commands.ts')).addDemo,
  lag: async () => (await import('./api-commands.ts')).addLag,
  check: async () => (await import('./api-commands.ts')).addCheck,
  gate: async () => (await import('./api-commands.ts')).addGate,
  erase: async () => (await import('./api-commands.ts')).addErase,
  receipt: async () => (await import('./receipt-commands.ts')).addReceipt,
  verify: async () => (await import('./receipt-commands.ts')).addVerify,
  quarantine: async () => (await import('./quarantine-commands.ts')).addQuarantine,
  stores: async () => (await import('./ledger-commands.ts')).addStores,
  reconcile: async () => (await import('./reconcile.ts')).addReconcile,
  guard: async () => (await import('./guard-commands.ts')).addGuard,
  import: async () => (await import('./import-commands.ts')).addImport,
  'import-filter': async () => (await import('./import-filter.ts')).addImportFilter,
  keys: async () => (await import('./key-commands.ts')).addKeys,
  disputes: async () => (await import('./dispute-commands.ts')).addDisputes,
  versions: async () => (await import('./versions.ts')).addVersions,
  ledger: async () => (await import('./ledger-commands.ts')).addLedger,
  audit: async () => (await import('./ledger-commands.ts')).addAudit,
  doctor: async () => (await import('./doctor.ts')).addDoctor,
  config: async () => (await import('./config-commands.ts')).addConfig,
};

/** The program with the one command that `args` begin with, or with every command if they begin with none, as in `--help`. */
export async function createProgram(args: readonly string[]): Promise<Command> {
  const program = new Command('abide')
    .description(
      "Records people's opt-outs, carries each to every store that could still reach the person, and proves that it arrived.",
    )
    .version('0.1.0')
    // An option belongs to the command that it follows: `import` has options, and so have the commands below it.
    .enablePositionalOptions()
    .exitOverride()
    .addHelpText(
      'after',
      `
Environment:
  ABIDE_CONFIG     the configuration file (default ./abide.yaml; if there is
                   none, the embedded default runs)
  ABIDE_DATA       the data folder (default .abide)
  ABIDE_KEYS       the key ring as JSON, instead of keys.json in the data
                   folder; \`abide ledger init\` begins a ledger with it
  ABIDE_ADMIN_KEY  the administrator's key, instead of a made-up one
  ABIDE_URL        where the API is, for the commands that ask it (default where
                   \`listen\` in the configuration file lets it listen, at PORT,
                   or http://127.0.0.1:8080)
  ABIDE_KEY        the API key for the commands that ask it
  ABIDE_LOG        fatal, error, warn (default), info, debug, silent
  PORT             the port to listen on, and where the API is asked
                   (default 8080)

Exit codes: 0 done, 1 failed, 2 wrong use, 3 the answer is no (late, do not
send, hold, nothing there, already so), 4 not done yet: it goes on, or waits for
somebody else.`,
    );

  const [first = ''] = args;
  const names = Object.hasOwn(COMMANDS, first) ? [first] : Object.keys(COMMANDS);
  for (const name of names) {
    const add = await COMMANDS[name]!();
    add(program);
  }
  sayWhereHelpIs(program);
  return program;
}

/** The help that is named after a mistake is the command's own, which lists its options. */
function sayWhereHelpIs(command: Command, path = command.name()): void {
  command.showHelpAfterError(`(see ${path} --help)`);
  for (const below of command.commands) sayWhereHelpIs(below, `${path} ${below.name()}`);
}
