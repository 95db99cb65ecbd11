# Airflow with this project in it; docker-compose.yaml builds it.
FROM apache/airflow:3.3.2-python3.11

# The lock holds Airflow and the Celery provider too, so what runs here is the set that was resolved and tested together,
# whatever else the base image brings. The last line fails the build if the executor does not import with that set.
COPY requirements.txt /tmp/requirements.txt
RUN pip install --no-cache-dir --require-hashes -r /tmp/requirements.txt \
    && python -c "from airflow.providers.celery.executors.celery_executor import CeleryExecutor"

# Editable: /opt/airflow/plugins is also where Airflow looks for plugins, so there is one copy of the code and the
# platform files are found beside it. Setuptools comes from the lock.
WORKDIR /opt/airflow
COPY --chown=airflow:0 pyproject.toml setup.py requirements.in README.md LICENSE ./
COPY --chown=airflow:0 plugins ./plugins
COPY --chown=airflow:0 include ./include
COPY --chown=airflow:0 dags ./dags
RUN pip install --no-cache-dir --no-deps --no-build-isolation --editable . \
    && mkdir -p login logs \
    && dbops platform check --file production > /dev/null
