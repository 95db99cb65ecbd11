"""A Kubernetes API of the lab: deployments whose pods are real sessions with PostgreSQL.

`python -m dbops_lab.kubernetes --state DIR --port P --nameserver HOST:PORT --user U --database D`. HTTPS on loopback
with the lab's certificate, bearer token; the secrets come in LAB_KUBERNETES_TOKEN and LAB_POSTGRES_PASSWORD.

GET, PATCH  /apis/apps/v1/namespaces/{namespace}/deployments/{name} (GET of all without a name, and of `/status`);
            strategic merge and merge patches; a new pod template is rolled out step by step, in time
GET         /api/v1/namespaces/{namespace}/pods/{name} (and all, by `labelSelector`)

A pod asks for the address of its container's DATABASE_HOST when it starts, and never again: it connects to that address
(DATABASE_PORT) as `<deployment>/<pod>`, and is ready while the session lives.

Control, without a token:
POST /lab/deployments  {"namespace", "name", "replicas", "host", "port", "deadline", "if_missing"}: make one
POST /lab/faults       a list that replaces all before: {"method", "path": regex, "status", "times", "delay"}, or
                       {"deployment": "namespace/name"}: its new pods crash
POST /lab/step         {"seconds": 0.5}: between two steps of a rollout
"""

TOKEN, PASSWORD = "LAB_KUBERNETES_TOKEN", "LAB_POSTGRES_PASSWORD"
