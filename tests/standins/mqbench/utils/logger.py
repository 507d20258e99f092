import logging

logger = logging.getLogger("MQBENCH")
logger.setLevel(logging.INFO)
