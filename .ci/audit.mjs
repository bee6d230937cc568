// Known weaknesses of what is shipped, as `npm audit --omit=dev` has them: one that is high or critical is a failure. Where the
// registry offers no audits that is said; it is no failure, and nothing was learned.
import { spawnSync } from 'node:child_process';

const NOT_OFFERED = [404, 405, 501];

const { stdout, stderr, status } = spawnSync('npm', ['audit', '--omit=dev', '--audit-level=high', '--json'], {
  encoding: 'utf8',
  maxBuffer: 64 * 1024 * 1024,
});
let said;
try {
  said = JSON.parse(stdout);
} catch {
  said = { message: stderr };
}
const found = said.metadata?.vulnerabilities;
if (found !== undefined) {
  console.log(
    `npm audit: ${found.total} known weaknesses, of which ${found.critical} critical and ${found.high} high`,
  );
  for (const { name, severity, range } of Object.values(said.vulnerabilities))
    console.log(`  ${severity}: ${name} ${range}`);
  process.exit(status === 0 ? 0 : 1);
}
if (NOT_OFFERED.includes(said.statusCode)) {
  console.log(`!!! npm audit: NOT RUN: the registry offers no audits (HTTP ${said.statusCode})`);
  process.exit(0);
}
console.error(`npm audit failed: ${said.message}`);
process.exit(1);
