import type { Command } from 'commander';
import { examine } from '../processes/examine.ts';
import { EXIT, print, printJson } from './output.ts';

const SIGN = { fine: 'ok  ', attention: 'look', broken: 'FAIL' } as const;

export function addDoctor(program: Command): void {
  program
    .command('doctor')
    .description(
      'Look at configuration, database, roles, stream, keys, clock, disk and lag, and say what to do',
    )
    .option('--config <file>', 'abide.yaml (ABIDE_CONFIG)')
    .option('--json', 'print JSON')
    .action(async (options: { config?: string; json?: boolean }) => {
      const findings = await examine(options.config);
      if (options.json === true) printJson(findings);
      else {
        for (const { what, state, says, fix } of findings) {
          print(`${SIGN[state]}  ${what}: ${says}`);
          if (fix !== undefined) print(`      ${fix}`);
        }
      }
      if (findings.some(({ state }) => state === 'broken')) process.exitCode = EXIT.no;
    });
}
