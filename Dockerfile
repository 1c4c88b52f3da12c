# One image for every role; docker-compose.yml says which command each container runs. Nothing runs as root.
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    OMP_WAIT_POLICY=PASSIVE \
    OMP_NUM_THREADS=1 \
    DJANGO_SETTINGS_MODULE=searchapp.settings.production \
    DATA_DIR=/data

RUN groupadd --gid 10001 perennial \
 && useradd --uid 10001 --gid perennial --no-create-home --shell /usr/sbin/nologin perennial \
 && mkdir /data && chown perennial:perennial /data

WORKDIR /app
COPY requirements.txt requirements-milvus.txt ./
# The CPU build of torch is enough; TORCH_INDEX may name an index that offers it.
ARG TORCH_INDEX=""
RUN if [ -n "$TORCH_INDEX" ]; then pip install --no-cache-dir torch==2.13.0 --index-url "$TORCH_INDEX"; fi \
 && pip install --no-cache-dir -r requirements.txt
# --build-arg MILVUS=yes adds the client that GALLERY_INDEX=milvus needs.
ARG MILVUS=""
RUN if [ -n "$MILVUS" ]; then pip install --no-cache-dir -r requirements-milvus.txt; fi

COPY --chown=root:root manage.py ./
COPY --chown=root:root ml ml
COPY --chown=root:root searchapp searchapp
COPY --chown=root:root templates templates
COPY --chown=root:root static static

USER perennial
VOLUME /data
EXPOSE 8000
CMD ["python", "manage.py", "web", "--host", "0.0.0.0", "--port", "8000"]
