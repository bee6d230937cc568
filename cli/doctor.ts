import type { Command } from 'commander';
import { environmentOf, ofInstallation } from './installation.ts';
import type { Installation } from './installation.ts';
import { EXIT, leave, print, printJson } from './output.ts';

const SIGN = { fine: 'ok  ', attention: 'look', broken: 'FAIL' } as const;

export function addDoctor(program: Command): void {
  ofInstallation(program.command('doctor'))
    .description(
      'Look at configuration, stores, issuers of tokens, database, roles, stream, keys, clock, disk and lag, and say what to do. Exit code 3: something is broken.',
    )
    .option('--json', 'print JSON')
    .action(async (options: Installation & { json?: boolean }) => {
      const { examine } = await import('../processes/examine.ts');
      const findings = await examine(environmentOf(options));
      if (options.json === true) printJson(findings);
      else {
        for (const { what, state, says, fix } of findings) {
          print(`${SIGN[state]}  ${what}: ${says}`);
          if (fix !== undefined) print(`      ${fix}`);
        }
      }
      if (findings.some(({ state }) => state === 'broken')) process.exitCode = EXIT.no;
      leave();
    });
}
