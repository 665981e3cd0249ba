/**
 * Applies a host file and ends itself with SIGKILL just before a given step.
 *
 *     node test/support/apply-until.ts HOST_FILE STEP
 *
 * Exit codes: 0 it came to the end before that step.
 */
import { loadHost } from '../../scripts/cluster/open.ts'
import { applyHost } from '../../scripts/plan/provision.ts'

const [file, step] = process.argv.slice(2)
let count = 0
await applyHost(
  { loaded: await loadHost(file!), overrides: [], only: undefined },
  {
    allow: new Set(['restarts-server', 'rewrites-hba']),
    onStep: () => {
      if (count++ === Number(step)) process.kill(process.pid, 'SIGKILL')
    },
  },
)
