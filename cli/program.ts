// What only one command needs it loads itself: `abide check` asks in a script, and need not load a database.
import { Command } from 'commander';
import { addCheck, addGate, addLag } from './api-commands.ts';
import { addConfig } from './config-commands.ts';
import { addDisputes } from './dispute-commands.ts';
import { addDoctor } from './doctor.ts';
import { addGuard } from './guard-commands.ts';
import { addImport } from './import-commands.ts';
import { addImportFilter } from './import-filter.ts';
import { addKeys } from './key-commands.ts';
import { addAudit, addLedger, addStores } from './ledger-commands.ts';
import { addQuarantine } from './quarantine-commands.ts';
import { addDemo, addServe, addWorker } from './running-commands.ts';
import { addReconcile } from './reconcile.ts';
import { addStack } from './stack-commands.ts';
import { addVersions } from './versions.ts';

/** Every command, as `abide --help` lists them. */
export function createProgram(): Command {
  const program = new Command('abide')
    .description(
      "Records people's opt-outs, carries each to every store that could still reach the person, and proves that it arrived.",
    )
    .version('0.1.0')
    .showHelpAfterError('(see abide --help)')
    // An option belongs to the command that it stands behind: `import` has options, and so have the commands below it.
    .enablePositionalOptions()
    .exitOverride()
    .addHelpText(
      'after',
      `
Environment:
  ABIDE_CONFIG     the configuration file (default ./abide.yaml; where there is none, the embedded default runs)
  ABIDE_DATA       the data folder (default .abide)
  ABIDE_KEYS       the key ring as JSON, instead of keys.json in the data folder
  ABIDE_ADMIN_KEY  the administrator's key, instead of a made-up one
  ABIDE_URL        where the API is, for the commands that ask it (default http://127.0.0.1:8080)
  ABIDE_KEY        the API key for the commands that ask it
  ABIDE_LOG        fatal, error, warn (default), info, debug, silent
  PORT             the port to listen on (default 8080)

Exit codes: 0 done, 1 failed, 2 wrong use, 3 the answer is no (late, do not send, hold, nothing there, so already),
4 it waits for somebody else.`,
    );

  for (const add of [
    addServe,
    addWorker,
    addStack,
    addDemo,
    addLag,
    addCheck,
    addGate,
    addQuarantine,
    addStores,
    addReconcile,
    addGuard,
    addImport,
    addImportFilter,
    addKeys,
    addDisputes,
    addVersions,
    addLedger,
    addAudit,
    addDoctor,
    addConfig,
  ]) {
    add(program);
  }
  return program;
}
